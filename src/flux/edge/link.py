"""What the edge needs of the platform: one small interface, whatever carries it.

Every call raises UnavailableError when the platform is away; nothing else is expected of it. `sql_link` speaks to the
platform's database directly; one over HTTPS can take its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from flux.control.feed import ControlFeed
from flux.edge.encoding import Recorded
from flux.edge.stops import StopOrder
from flux.model import Device, DeviceId, DeviceState


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a batch that the platform has committed; ``rejected`` rows are kept there with their reasons."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """The devices of one site, and those of the templates they name that the platform has: name → YAML.

    ``stop`` is the platform's `flux control stop` in force; ``resumed_at`` when the site was last resumed there.
    """

    devices: tuple[Device, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    stop: StopOrder | None = None
    resumed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """Whether this edge may command its site; if not, ``holder`` and ``host`` are of the edge that may."""

    granted: bool
    holder: str
    host: str
    token: int


class PlatformLink(Protocol):
    """The platform, as one site's edge sees it."""

    async def push(self, records: Sequence[Recorded]) -> PushResult:
        """Store ``records``; when this returns they are committed. Pushing them again is free."""
        ...

    async def registry(self) -> RegistrySnapshot:
        """What the registry holds for this site now."""
        ...

    async def wait_for_registry_change(self, timeout_s: float) -> bool:
        """True as soon as the registry may have changed, False after ``timeout_s`` without a change."""
        ...

    async def control_feed(self, after: str | None, timeout_s: float) -> ControlFeed | None:
        """Market, dispatch, envelopes and pushed plan of the site, as soon as they differ from the feed ``after``.

        ``after`` is the cursor of the feed that is known, None: none is. None after ``timeout_s`` without a change.
        """
        ...

    async def platform_time(self) -> datetime:
        """The platform's clock, aware, in UTC."""
        ...

    async def report_state(self, device_id: DeviceId, state: DeviceState, reason: str) -> None:
        """Tell the registry what the edge saw of a device: the first good poll of one in testing makes it active."""
        ...

    async def acknowledge_stop(self) -> None:
        """Tell that every battery of the site has acknowledged 0 kW since the stop."""
        ...

    async def take_lease(self, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
        """Take the control lease of the site, or renew it, for ``lasts``."""
        ...

    async def release_lease(self, holder: str) -> None:
        """Give the control lease back."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
