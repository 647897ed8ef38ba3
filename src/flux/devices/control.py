"""How a kind of battery is commanded, as data: which registers, what goes into them, in which order."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux.devices.registers import RegisterName


class Step(StrEnum):
    """One write of a command; the order here is the default order of a first command."""

    RAMP_UP = "ramp_up"
    RAMP_DOWN = "ramp_down"
    ALWAYS_ACTIVE = "always_active"
    HEARTBEAT = "heartbeat"
    POWER = "power"
    TIMEOUT = "timeout"
    MODE = "mode"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)


class SetPoint(_Section):
    """The register that takes the power: kW, + discharge, once its scale is applied.

    The scale of a device that calls charging positive is negative.
    """

    register_name: RegisterName = Field(alias="register")


class Constant(_Section):
    """A register that is given one and the same value, in engineering units."""

    register_name: RegisterName = Field(alias="register")
    value: float = Field(allow_inf_nan=False)


class CommandTimeout(_Section):
    """The register that says after how many seconds without a command the device goes to its safe state."""

    register_name: RegisterName = Field(alias="register")
    value: float = Field(gt=0, allow_inf_nan=False, description="seconds")


class Heartbeat(_Section):
    """A register that alternates between two values, one for each command."""

    register_name: RegisterName = Field(alias="register")
    values: tuple[int, int]

    @model_validator(mode="after")
    def _two_values(self) -> Self:
        if self.values[0] == self.values[1]:
            raise ValueError("the two values must differ, or the device cannot see that they alternate")
        return self


class ControlSection(_Section):
    """What a command writes. ``first`` is the order of the first command of a session, ``later`` of those after it."""

    power: SetPoint
    timeout: CommandTimeout | None = None
    heartbeat: Heartbeat | None = None
    mode: Constant | None = None
    always_active: Constant | None = None
    ramp_up: Constant | None = None
    ramp_down: Constant | None = None
    first: tuple[Step, ...] = ()
    later: tuple[Step, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_orders(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        given = [step for step in Step if data.get(step) is not None]
        later = [step for step in (Step.HEARTBEAT, Step.POWER) if step in given]
        return {"first": given, "later": later} | data

    @model_validator(mode="after")
    def _orders_complete(self) -> Self:
        given = set(self.registers)
        for key, order in (("first", self.first), ("later", self.later)):
            for step in order:
                if step not in given:
                    raise ValueError(f"{key} names {step}, which has no section of its own here")
                if order.count(step) > 1:
                    raise ValueError(f"{key} names {step} twice")
            if Step.POWER not in order:
                raise ValueError(f"{key} must name power")
        missing = [step for step in Step if step in given - set(self.first)]
        if missing:
            raise ValueError(f"first leaves out {', '.join(missing)}, which would never be written")
        if Step.HEARTBEAT in given - set(self.later):
            raise ValueError("later must name heartbeat, which alternates with each command")
        return self

    @property
    def registers(self) -> dict[Step, str]:
        """The name of the register that each step writes."""
        sections = ((step, getattr(self, step)) for step in Step)
        return {step: section.register_name for step, section in sections if section is not None}

    def constants(self) -> dict[Step, float]:
        """The value of each step that always writes the same."""
        sections = ((step, getattr(self, step)) for step in Step)
        return {step: one.value for step, one in sections if isinstance(one, Constant | CommandTimeout)}
