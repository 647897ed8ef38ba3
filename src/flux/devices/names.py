"""The names that Flux knows registers by, and what the short form of a template takes each of them for.

A meter's registers are named as its metrics (:class:`flux.model.MeterReading`); a battery's as below. Other names are
read as diagnostics.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux.devices.registers import (
    MAX_ADDRESS,
    MAX_STRING_BYTES,
    Access,
    Ratio,
    Register,
    RegisterType,
    WordOrder,
)
from flux.model import METER_METRICS, DeviceType, MetricKind


@dataclass(frozen=True, slots=True)
class KnownName:
    """What the short form makes of a name; ``unit`` is the engineering unit that the value must come in."""

    type: RegisterType
    unit: str


_ABOUT_ITSELF = {
    "firmware_version": KnownName(RegisterType.STRING, ""),
    "serial_number": KnownName(RegisterType.STRING, ""),
    "status": KnownName(RegisterType.UINT16, ""),
}
_BESS_NAMES = {
    "soe": KnownName(RegisterType.UINT16, "%"),
    "target_power": KnownName(RegisterType.INT16, "kW"),
    "measured_power": KnownName(RegisterType.INT16, "kW"),  # what the battery delivers, + discharge
    "available_blocks": KnownName(RegisterType.UINT16, ""),
    "command_source": KnownName(RegisterType.UINT16, ""),
    "stored_energy": KnownName(RegisterType.UINT32, "kWh"),
    "capacity": KnownName(RegisterType.UINT32, "kWh"),
    "max_charge_power": KnownName(RegisterType.UINT16, "kW"),
    "max_discharge_power": KnownName(RegisterType.UINT16, "kW"),
} | _ABOUT_ITSELF
_METER_NAMES = {
    metric.name: KnownName(
        RegisterType.UINT32 if metric.kind is MetricKind.COUNTER else RegisterType.FLOAT32, metric.unit
    )
    for metric in METER_METRICS
} | _ABOUT_ITSELF

_POWER_UNITS = {"kW", "kVAr", "kVA"}
_ENERGY_UNITS = {"kWh", "kVArh", "kVAh"}


def known_names(type: DeviceType) -> dict[str, KnownName]:
    """The names that a reading of this type of device is made from."""
    return dict(_BESS_NAMES if type is DeviceType.BESS else _METER_NAMES)


class ShortScaling(BaseModel):
    """The short form's scales: ``power`` for what comes in kW (kVA, kVAr), ``energy`` for kWh (kVAh, kVArh)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    power: float = Field(default=1.0, allow_inf_nan=False)
    energy: float = Field(default=1.0, allow_inf_nan=False)


class ShortRegister(BaseModel):
    """A register of the short form: a bare address, or an address with whatever differs from the usual."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=lambda schema: _or_bare_address(schema))

    address: int = Field(ge=0, le=MAX_ADDRESS, strict=True)
    type: RegisterType | None = None
    word_order: WordOrder = WordOrder.BIG
    length: int | None = Field(default=None, ge=2, le=MAX_STRING_BYTES, multiple_of=2, description="bytes of a string")
    scale: float | None = Field(default=None, allow_inf_nan=False)
    ratio: Ratio | None = None
    unit: str | None = None
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    access: Access = Access.READ
    diagnostic: bool = False
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, data: object) -> object:
        return data if isinstance(data, dict) else {"address": data}


def _or_bare_address(schema: dict[str, object]) -> None:
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "integer", "minimum": 0, "maximum": MAX_ADDRESS}, whole]


def register_from_short(type: DeviceType, name: str, short: ShortRegister, scaling: ShortScaling) -> Register:
    """The register that a line of the short form means; :class:`ValueError` says what it does not say."""
    known = known_names(type).get(name)
    if short.type is None and known is None:
        names = ", ".join(sorted(known_names(type)))
        raise ValueError(f"no register of a {type} is known by this name; give it a `type`, or use one of {names}")
    given = short.model_dump(exclude_none=True)
    unit = known.unit if known else ""
    usual = {"name": name, "type": known.type if known else None, "unit": unit, "scale": _scale_of(unit, scaling)}
    return Register.model_validate(usual | given)


def _scale_of(unit: str, scaling: ShortScaling) -> float:
    if unit in _POWER_UNITS:
        return scaling.power
    return scaling.energy if unit in _ENERGY_UNITS else 1.0
