"""How a device is told by its registers alone: some that it must have, with values that can be meant.

::

    fingerprint:
      - {register: frequency, min: 45, max: 65}
      - {register: serial_number, matches: "^TG[0-9]{6}"}
"""

import re
from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux.devices.checks import Problem
from flux.devices.codec import Value
from flux.devices.registers import Register, RegisterName, RegisterType


class FingerprintCheck(BaseModel):
    """One register, and what its value (engineering, without transformer ratios) may be; a text by its pattern."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    register_name: RegisterName = Field(alias="register")
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    matches: str | None = Field(default=None, min_length=1, description="regular expression, found anywhere in a text")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.matches is None and self.min is None and self.max is None:
            raise ValueError("needs `min`, `max` or, for a text, `matches`")
        if self.matches is not None and not (self.min is None and self.max is None):
            raise ValueError("`matches` is for texts, `min` and `max` are for numbers")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"{self.matches!r} is no regular expression: {error}") from None
        return self

    def fits(self, value: Value | None) -> bool:
        """Whether a device of this kind could show this value."""
        if self.matches is not None:
            return isinstance(value, str) and re.search(self.matches, value) is not None
        if value is None or isinstance(value, str):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


def fingerprint_problems(fingerprint: Sequence[FingerprintCheck], registers: Sequence[Register]) -> list[Problem]:
    """Checks of registers that the template does not have, cannot read, or that hold something else."""
    known: Mapping[str, Register] = {register.name: register for register in registers}
    problems = []
    for number, check in enumerate(fingerprint):
        register = known.get(check.register_name)
        where = ("fingerprint", number, "register")
        if register is None:
            problems.append(Problem(where, f"{check.register_name!r} is none of the template's registers"))
        elif not register.readable:
            problems.append(Problem(where, f"{check.register_name} can only be written"))
        elif (register.type is RegisterType.STRING) != (check.matches is not None):
            wanted = "`matches`" if register.type is RegisterType.STRING else "`min` or `max`"
            problems.append(Problem(where, f"{check.register_name} is a {register.type}: it is told by {wanted}"))
    return problems
