"""Words of 16 bits ↔ engineering values, and which blocks to read to get them. Pure.

``decode(int32 register with scale 0.001, [0xFFFF, 0xD8F0])`` → −10.0; ``encode`` gives the words back.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flux.devices.registers import Register, RegisterType, WordOrder
from flux.errors import DeviceError, InputError

MAX_BLOCK_WORDS = 125
"""The most registers that one Modbus read may ask for."""

Value = float | int | str

STRUCT_CODES = {
    RegisterType.UINT16: "H",
    RegisterType.INT16: "h",
    RegisterType.UINT32: "I",
    RegisterType.INT32: "i",
    RegisterType.FLOAT32: "f",
}
_INTEGER_RANGES = {
    RegisterType.UINT16: (0, 0xFFFF),
    RegisterType.INT16: (-0x8000, 0x7FFF),
    RegisterType.UINT32: (0, 0xFFFF_FFFF),
    RegisterType.INT32: (-0x8000_0000, 0x7FFF_FFFF),
}


@dataclass(frozen=True, slots=True)
class Scaling:
    """raw × ``multiplier`` / ``divisor``.

    A scale of 0.1 or 0.001 is done as a division by 10 or 1000: 3 × 0.1 is 0.30000000000000004, and 3 / 10 is 0.3.
    """

    multiplier: float
    divisor: float

    @classmethod
    def of(cls, register: Register, factor: float = 1.0) -> "Scaling":
        """The scaling of ``register`` on a device whose ratios come to ``factor``."""
        total = register.scale * factor
        inverse = 1.0 / total
        whole = round(inverse)
        if abs(total) < 1 and math.isclose(inverse, whole, rel_tol=1e-12):
            return cls(1.0, float(whole))
        return cls(total, 1.0)

    @property
    def identity(self) -> bool:
        return self.multiplier == 1.0 and self.divisor == 1.0

    def apply(self, raw: float) -> float:
        return raw * self.multiplier / self.divisor

    def undo(self, value: float) -> float:
        return value * self.divisor / self.multiplier


def decode(register: Register, words: Sequence[int], *, factor: float = 1.0) -> Value | None:
    """The engineering value of ``words``; ``None`` for a float that is not finite.

    ``factor`` is what the device's transformer ratios come to. An integer without scale stays an ``int``. Strings end
    at the first NUL, without blanks around them. Whether a value is plausible is not asked here.
    """
    if len(words) != register.words:
        raise ValueError(f"{register.name}: {len(words)} words given, {register.words} needed")
    if register.type is RegisterType.STRING:
        return text_of(struct.pack(f">{len(words)}H", *words))
    ordered = words if register.word_order is WordOrder.BIG else words[::-1]
    packed = struct.pack(f">{len(words)}H", *ordered)
    (raw,) = struct.unpack(f">{STRUCT_CODES[register.type]}", packed)
    scaling = Scaling.of(register, factor)
    value = raw if scaling.identity else scaling.apply(raw)
    return value if math.isfinite(value) else None


def encode(register: Register, value: Value, *, factor: float = 1.0) -> list[int]:
    """The words that say ``value`` (engineering units), rounded to the nearest that the register can hold.

    Raises :class:`InputError` for what it cannot hold: a number out of range or not finite, a string too long.
    """
    if register.type is RegisterType.STRING:
        return _encode_string(register, value)
    if isinstance(value, str) or not math.isfinite(value):
        raise InputError(f"register {register.name}: {value!r} is not a finite number")
    scaling = Scaling.of(register, factor)
    raw = value if scaling.identity else scaling.undo(value)
    packed = _pack_float(register, value, raw) if register.type is RegisterType.FLOAT32 else None
    if packed is None:
        packed = _pack_integer(register, value, raw, scaling)
    words = list(struct.unpack(f">{register.words}H", packed))
    return words if register.word_order is WordOrder.BIG else words[::-1]


def _pack_float(register: Register, value: Value, raw: float) -> bytes:
    try:
        return struct.pack(">f", raw)
    except OverflowError:
        raise InputError(f"register {register.name}: {value!r} is too large for a float32") from None


def _pack_integer(register: Register, value: Value, raw: float, scaling: Scaling) -> bytes:
    low, high = _INTEGER_RANGES[register.type]
    if not math.isfinite(raw) or not low <= round(raw) <= high:
        ends = sorted((scaling.apply(low), scaling.apply(high)))
        unit = f" {register.unit}" if register.unit else ""
        raise InputError(
            f"register {register.name}: {value!r}{unit} does not fit in {register.type}; "
            f"it holds {ends[0]:.12g} to {ends[1]:.12g}{unit}"
        )
    return struct.pack(f">{STRUCT_CODES[register.type]}", round(raw))


def text_of(data: bytes) -> str:
    """The text of a string register: up to the first NUL, without blanks around it; odd bytes as ``\\xff``."""
    return data.split(b"\0", 1)[0].decode("ascii", "backslashreplace").strip()


def _encode_string(register: Register, value: Value) -> list[int]:
    length = register.words * 2
    if not isinstance(value, str) or not value.isascii():
        raise InputError(f"register {register.name}: {value!r} is not ASCII text")
    if len(value) > length:
        raise InputError(f"register {register.name}: {value!r} is longer than its {length} bytes")
    return list(struct.unpack(f">{register.words}H", value.encode("ascii").ljust(length, b"\0")))


@dataclass(frozen=True, slots=True)
class Block:
    """One read: ``count`` registers from ``address``, which hold ``registers`` whole and in the order of address."""

    address: int
    count: int
    registers: tuple[Register, ...]

    @property
    def bridged(self) -> bool:
        """Whether it reads over addresses that no register of the template names."""
        return sum(register.words for register in self.registers) < self.count

    def slice(self, register: Register, words: Sequence[int]) -> Sequence[int]:
        """The words of ``register`` out of the ``words`` that the read of this block gave.

        Raises :class:`DeviceError` when the reply is not as long as was asked for.
        """
        if len(words) != self.count:
            raise DeviceError(f"asked for {self.count} registers from {self.address}, got {len(words)}")
        start = register.address - self.address
        if start < 0 or register.end > self.address + self.count:
            raise ValueError(f"register {register.name} is not in the block {self.address}+{self.count}")
        return words[start : start + register.words]


def plan_blocks(
    registers: Iterable[Register], max_words: int = MAX_BLOCK_WORDS, max_gap: int = MAX_BLOCK_WORDS
) -> tuple[Block, ...]:
    """The fewest reads that cover every register whole.

    A read is at most ``max_words`` long and skips at most ``max_gap`` addresses in a row that no register names. Some
    devices refuse a read over addresses that they don't have: ``max_gap=0`` reads listed registers only.
    Registers are taken from the lowest address on, each into the read before it while that stays allowed; no plan has
    fewer reads, because a read that is allowed stays so when registers at its ends are left out.
    """
    runs: list[list[Register]] = []
    for register in sorted(registers, key=lambda one: one.address):
        if register.words > max_words:
            raise ValueError(f"register {register.name} has {register.words} words, more than a read of {max_words}")
        run = runs[-1] if runs else []
        if run and register.end - run[0].address <= max_words and register.address - run[-1].end <= max_gap:
            run.append(register)
        else:
            runs.append([register])
    return tuple(Block(run[0].address, run[-1].end - run[0].address, tuple(run)) for run in runs)
