"""One register of a device, as data: where it is, how its words make a number, what the number may be."""

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_ADDRESS = 65535
MAX_STRING_BYTES = 250  # 125 registers, the longest read that Modbus knows

RegisterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class RegisterType(StrEnum):
    """How the words of a register are read."""

    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    FLOAT32 = "float32"
    STRING = "string"


class WordOrder(StrEnum):
    """Which word of a 32-bit value comes first; the bytes in a word are always big-endian, as Modbus says."""

    BIG = "big"
    LITTLE = "little"


class Access(StrEnum):
    READ = "read"
    WRITE = "write"
    READ_WRITE = "read_write"


class Function(StrEnum):
    """Which of a device's two tables is read; commands always go to the holding registers."""

    HOLDING = "holding"
    INPUT = "input"


class Ratio(StrEnum):
    """Which of the device's transformer ratios multiply a value, on top of its scale."""

    VT = "vt"
    CT = "ct"
    VT_CT = "vt_ct"


class Register(BaseModel):
    """One value that a device shows: engineering value = raw × ``scale`` × the device's ratios.

    ``min`` and ``max`` are in engineering units; a value outside them is taken as missing. ``length`` is in bytes and
    for strings only. ``unit`` is the engineering unit, after scaling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RegisterName
    address: int = Field(ge=0, le=MAX_ADDRESS, strict=True)
    type: RegisterType
    word_order: WordOrder = WordOrder.BIG
    length: int | None = Field(default=None, ge=2, le=MAX_STRING_BYTES, multiple_of=2, description="bytes of a string")
    scale: float = Field(default=1.0, allow_inf_nan=False)
    ratio: Ratio | None = None
    unit: str = ""
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    access: Access = Access.READ
    diagnostic: bool = Field(default=False, description="a value of its own, not a misspelt metric")
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        is_string = self.type is RegisterType.STRING
        if is_string != (self.length is not None):
            raise ValueError("a string needs `length` in bytes" if is_string else "`length` is for strings only")
        if is_string and (self.scale != 1.0 or self.ratio or self.min is not None or self.max is not None):
            raise ValueError("a string has no scale, ratio, min or max")
        if is_string and self.word_order is WordOrder.LITTLE:
            raise ValueError("a string has no word order")
        if self.scale == 0:
            raise ValueError("scale 0 would make every value 0")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if self.end > MAX_ADDRESS + 1:
            raise ValueError(f"its {self.words} words would end after address {MAX_ADDRESS}")
        return self

    @property
    def words(self) -> int:
        """How many 16-bit registers it takes."""
        if self.length is not None:
            return self.length // 2
        return 1 if self.type in (RegisterType.UINT16, RegisterType.INT16) else 2

    @property
    def end(self) -> int:
        """The address after its last word."""
        return self.address + self.words

    @property
    def readable(self) -> bool:
        return self.access is not Access.WRITE

    @property
    def writable(self) -> bool:
        return self.access is not Access.READ

    def factor(self, *, vt_ratio: float = 1.0, ct_ratio: float = 1.0) -> float:
        """What the device's ratios multiply this value with."""
        vt = vt_ratio if self.ratio in (Ratio.VT, Ratio.VT_CT) else 1.0
        ct = ct_ratio if self.ratio in (Ratio.CT, Ratio.VT_CT) else 1.0
        return vt * ct

    def plausible(self, value: float) -> bool:
        """Whether an engineering value is finite and within ``min`` and ``max``."""
        if not math.isfinite(value):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)
