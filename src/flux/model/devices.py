"""Devices and their metadata, as the registry holds them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from flux.errors import InputError
from flux.model.durations import Duration
from flux.model.readings import DeviceId

DeviceName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
SiteCode = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]

CounterWidth = Annotated[float, Field(gt=0, le=1e15, strict=True)]


class DeviceType(StrEnum):
    BESS = "bess"
    METER = "meter"


class MeterType(StrEnum):
    """What a meter meters; each reads + for power flowing from the grid side into it."""

    GRID = "grid"
    GENERATION = "generation"
    LOAD = "load"
    STORAGE = "storage"


class DeviceState(StrEnum):
    """Where a device is in its life; see `docs/devices.md`."""

    REGISTERED = "registered"
    CONFIGURED = "configured"
    TESTING = "testing"
    ACTIVE = "active"
    FAILED = "failed"
    MAINTENANCE = "maintenance"
    DECOMMISSIONED = "decommissioned"


POLLED_STATES = frozenset({DeviceState.TESTING, DeviceState.ACTIVE})
"""A device is polled when it is ``active`` and in one of these states."""


class DeviceMetadata(BaseModel):
    """What every kind of device may say of itself; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    manufacturer: str | None = None
    model: str | None = None
    serial_number: str | None = None
    firmware_version: str | None = None
    host: str | None = None
    port: int = Field(default=502, ge=1, le=65535, strict=True)
    modbus_address: int = Field(default=1, ge=0, le=255, strict=True, description="unit id on its connection")
    polling_interval: Duration | None = None
    maintenance: Any = None
    hold_limit: Duration | None = Field(default=None, description="how long a reading of a battery holds")
    gap_limit: Duration | None = Field(default=None, description="readings further apart split the series")
    counter_width: CounterWidth | None = Field(default=None, description="where every counter begins again at 0")
    counter_widths: dict[str, CounterWidth] | None = Field(default=None, description="the same for single counters")
    power_stuck_after: Duration | None = Field(default=None, description="a power equal for so long is stuck")


class BessMetadata(DeviceMetadata):
    """A battery storage system."""

    template: str | None = None
    capacity_kwh: float | None = Field(default=None, gt=0, strict=True)
    max_power_kw: float | None = Field(default=None, gt=0, strict=True)
    efficiency: float | None = Field(default=None, gt=0, le=1, strict=True)

    @property
    def template_name(self) -> str | None:
        return self.template


class MeterMetadata(DeviceMetadata):
    """A meter; ``invert`` is for a transformer that was mounted the wrong way round."""

    register_map: str | None = None
    meter_type: MeterType | None = None
    phases: int | None = Field(default=None, ge=1, le=3, strict=True)
    ct_ratio: float = Field(default=1.0, gt=0, strict=True)
    vt_ratio: float = Field(default=1.0, gt=0, strict=True)
    invert: bool = Field(default=False, strict=True)
    max_power_kw: float | None = Field(default=None, gt=0, strict=True)
    storage_of: str | None = Field(default=None, description="name or id of the battery that a storage meter meters")

    @property
    def template_name(self) -> str | None:
        return self.register_map

    @model_validator(mode="after")
    def _meters_what_it_says(self) -> Self:
        if self.storage_of is not None and self.meter_type is not MeterType.STORAGE:
            raise ValueError("storage_of is for a meter with meter_type storage")
        return self


def parse_metadata(type: DeviceType, data: dict[str, Any] | str, name: str = "device") -> BessMetadata | MeterMetadata:
    """Validate ``data`` (text: JSON) for a device of ``type``; the error names the key, its value and what may be."""
    model = BessMetadata if type is DeviceType.BESS else MeterMetadata
    try:
        return model.model_validate_json(data) if isinstance(data, str) else model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        what = f"{key} = {first['input']!r}: {said}" if key else said
        raise InputError(f"{name}: metadata {what}") from None


class Device(BaseModel):
    """One row of ``mg_device_registry``."""

    model_config = ConfigDict(frozen=True)

    id: DeviceId
    name: DeviceName
    type: DeviceType
    site: SiteCode
    metadata: BessMetadata | MeterMetadata
    active: bool = True
    state: DeviceState = DeviceState.REGISTERED
    created_at: datetime
    updated_at: datetime

    @property
    def polled(self) -> bool:
        return self.active and self.state in POLLED_STATES
