"""What the edge needs of the platform: one small interface, whatever carries it.

Every call raises UnavailableError when the platform is away; nothing else is expected of it. `sql_link` speaks to the
platform's database directly, `https_link` to its HTTP API.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from flux.control.feed import ControlFeed
from flux.model import DeviceId, DeviceState, Job, UnavailableError
from flux.registry.for_edges import PushResult, RegistrySnapshot
from flux.store.encoding import Recorded

__all__ = ["JobAnswer", "KeyRefusedError", "LeaseAnswer", "PlatformLink", "PushResult", "RegistrySnapshot"]


class KeyRefusedError(UnavailableError):
    """The platform answers, and does not let this edge in: its key is wrong, has expired or was revoked."""


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """Whether this edge may command its site; if not, ``holder`` and ``host`` are of the edge that may."""

    granted: bool
    holder: str
    host: str
    token: int


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What became of a job: ``error`` why it failed, else ``result`` (as JSON can hold it)."""

    result: Any = None
    error: str | None = None


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

    async def take_job(self, holder: str, run: str, have: Sequence[UUID], timeout_s: float) -> Job | None:
        """A job of the site that is now this edge's, as soon as there is one; None after ``timeout_s`` without.

        ``run`` names this run of the edge ``holder``, ``have`` are the jobs that it knows it has.
        """
        ...

    async def finish_job(self, job_id: UUID, holder: str, run: str, answer: JobAnswer) -> bool:
        """Say what became of a job; False: the platform has given it up meanwhile. Again is free."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
