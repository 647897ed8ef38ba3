"""Whether operators let the site be controlled: stops from here and from the platform, batteries with another master.

Looked at several times a second, since ``flux control stop`` works at once; the files are tiny and mostly not there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path

import structlog

from flux.edge.alarms import Alarms
from flux.edge.controlled import ControlledBattery
from flux.edge.link import PlatformLink, RegistrySnapshot
from flux.edge.stops import OtherMasterFile, StopFile
from flux.edge.ticks import Sleep
from flux.model import UnavailableError
from flux.registry.for_edges import StopOrder

_logger = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.25
_REPORT_EVERY_S = 0.5
_RETRY_S = 5.0
_ALARM = "stopped"


class StopSwitch:
    """The stop of a site, and what is remembered of other masters; each until ``flux control resume``.

    ``changed`` is awaited when a stop begins or ends; ``acknowledged`` says whether the batteries are at 0 kW for it.
    """

    def __init__(
        self,
        state_dir: Path,
        link: PlatformLink,
        alarms: Alarms,
        *,
        batteries: Callable[[], Sequence[ControlledBattery]],
        changed: Callable[[], Awaitable[None]],
        acknowledged: Callable[[], bool],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._file = StopFile(state_dir)
        self._others = OtherMasterFile(state_dir)
        self._link = link
        self._alarms = alarms
        self._batteries = batteries
        self._changed = changed
        self._acknowledged = acknowledged
        self._sleep = sleep
        self._here: StopOrder | None = None
        self._platform: StopOrder | None = None
        self._resumed_at: datetime | None = None
        self._heard_once = False
        self._reported: StopOrder | None = None
        self._told: str | None = None
        self._on_disk = False
        self.other_masters: dict[str, str] = {}

    @property
    def reason(self) -> str | None:
        """Why the site is stopped; None: it is not."""
        order = self._here or self._platform
        return None if order is None else str(order)

    def load(self) -> None:
        """Take up what was left by an earlier run; before anything is controlled."""
        self._read_file()
        try:
            self.other_masters = self._others.read()
        except OSError as error:
            _logger.warning("what is remembered of other masters can't be read", error=str(error))
        self._on_disk = self._others.exists
        self._tell()

    def heard(self, snapshot: RegistrySnapshot) -> None:
        """What the platform says of stops."""
        self._platform = snapshot.stop
        if self._heard_once and snapshot.resumed_at != self._resumed_at:
            self._release()
        self._heard_once, self._resumed_at = True, snapshot.resumed_at

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await self._sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once, and tell what has changed."""
        self._read_file()
        self._keep_other_masters()
        if self._tell():
            await self._changed()

    async def report(self) -> None:
        """Tell the platform for ever when its stop has been carried out."""
        while True:
            order = self._platform
            if order is not None and order != self._reported and self._acknowledged():
                try:
                    await self._link.acknowledge_stop()
                    self._reported = order
                except UnavailableError:
                    await self._sleep(_RETRY_S)
            await self._sleep(_REPORT_EVERY_S)

    def _read_file(self) -> None:
        try:
            self._here = self._file.read()
        except OSError as error:  # what was known goes on: a disk that fails neither stops nor starts a battery
            self._alarms.set("stop_file", f"{self._file.path}: {error.strerror}")
        else:
            self._alarms.clear("stop_file")

    def _tell(self) -> bool:
        """Alarm and log line of a stop; True when it began, ended or changed."""
        reason, before = self.reason, self._told
        self._told = reason
        self._alarms.set_or_clear(_ALARM, reason)
        return reason != before

    def _keep_other_masters(self) -> None:
        """Write what was found; a file that was removed is the operator's resume."""
        if self._on_disk and not self._others.exists:
            self._release()
        found = {b.name: b.other_master for b in self._batteries() if b.other_master is not None}
        if found and (found != self.other_masters or not self._on_disk):
            self.other_masters = found
            try:
                self._others.write(found)
                self._on_disk = True
            except OSError as error:
                self._alarms.set("stop_file", f"{self._others.path}: {error.strerror}")

    def _release(self) -> None:
        """Control the batteries again that had another master."""
        for battery in self._batteries():
            if battery.other_master is not None:
                battery.release()
        if self.other_masters:
            _logger.info("batteries are commanded again", batteries=sorted(self.other_masters))
        self.other_masters = {}
        self._on_disk = False
        try:
            self._others.clear()
        except OSError as error:
            self._alarms.set("stop_file", f"{self._others.path}: {error.strerror}")
