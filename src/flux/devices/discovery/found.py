"""What a scan finds."""

from dataclasses import dataclass
from enum import StrEnum

from flux.model import DeviceType


class RecognisedBy(StrEnum):
    """How it was told what a device is; in the order in which they are tried."""

    IDENTIFICATION = "identification"  # Modbus function 43/14
    SUNSPEC = "sunspec"
    FINGERPRINT = "fingerprint"  # registers with plausible values, as a template says


@dataclass(frozen=True, slots=True)
class FoundUnit:
    """A unit that speaks Modbus; what could not be read is None. ``also``: other units that are the same device."""

    host: str
    port: int
    unit: int
    response_ms: float
    recognised_by: RecognisedBy | None = None
    manufacturer: str | None = None
    model: str | None = None
    firmware_version: str | None = None
    serial_number: str | None = None
    template: str | None = None
    type: DeviceType | None = None
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundPort:
    """An open port, the units that answered on it, and, where none did, why not."""

    host: str
    port: int
    units: tuple[FoundUnit, ...]
    problem: str | None = None
