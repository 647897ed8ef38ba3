"""What the edge needs of the platform: one small interface, whatever carries it.

Every call raises UnavailableError when the platform is away; nothing else is expected of it. `sql_link` speaks to the
platform's database directly; one over HTTPS can take its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from flux.model import Device, DeviceId, DeviceState, Reading


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a batch that the platform has committed; ``rejected`` rows are kept there with their reasons."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """The devices of one site, and those of the templates they name that the platform has: name → YAML."""

    devices: tuple[Device, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)


class PlatformLink(Protocol):
    """The platform, as one site's edge sees it."""

    async def push(self, readings: Sequence[Reading]) -> PushResult:
        """Store ``readings``; when this returns they are committed. Pushing them again is free."""
        ...

    async def registry(self) -> RegistrySnapshot:
        """What the registry holds for this site now."""
        ...

    async def wait_for_registry_change(self, timeout_s: float) -> bool:
        """True as soon as the registry may have changed, False after ``timeout_s`` without a change."""
        ...

    async def platform_time(self) -> datetime:
        """The platform's clock, aware, in UTC."""
        ...

    async def report_state(self, device_id: DeviceId, state: DeviceState, reason: str) -> None:
        """Tell the registry what the edge saw of a device: the first good poll of one in testing makes it active."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
