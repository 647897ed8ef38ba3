"""Follows ``site.yaml``: a changed plan is taken up when it is valid, else told with file and line."""

import asyncio

import structlog

from flux.edge.alarms import Alarms
from flux.edge.config import SiteConfig, SiteFile, load_site_file
from flux.edge.link import RegistrySnapshot
from flux.edge.site import Site
from flux.edge.ticks import Sleep
from flux.model import FluxError

_logger = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
_ALARM = "site_file"

_Signature = tuple[int, int, int]


class SiteFileFollower:
    """Gives the plan of a changed site file to ``site``."""

    def __init__(self, site_file: SiteFile, site: Site, alarms: Alarms, sleep: Sleep = asyncio.sleep) -> None:
        self._current = site_file
        self._site = site
        self._alarms = alarms
        self._sleep = sleep
        self._seen = self._signature()
        self._waiting: SiteFile | None = None
        self._tried_with: RegistrySnapshot | None = None

    async def run(self) -> None:
        """Follow the file for ever."""
        while True:
            await self.look()
            await self._sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Take up what has changed since the last look; a plan that only the registry refused is tried again."""
        signature = self._signature()
        if signature == self._seen:
            if self._waiting is not None and self._site.snapshot is not self._tried_with:
                await self._take(self._waiting)
            return
        self._seen, self._waiting = signature, None
        if signature is None:
            self._alarms.set(_ALARM, f"{self._current.path}: it is gone; the plan as it was goes on")
            return
        try:
            changed = await asyncio.to_thread(load_site_file, self._current.path)
        except FluxError as error:
            self._alarms.set(_ALARM, f"{error}; the plan as it was goes on")
            return
        await self._take(changed)

    async def _take(self, changed: SiteFile) -> None:
        self._tried_with = self._site.snapshot
        problems = await self._site.change_plan(changed.config.controller)
        if problems:
            lines = [str(changed.document.error(["controller", *path], text)) for path, text in problems]
            self._alarms.set(_ALARM, "\n".join(lines) + "; the plan as it was goes on")
            self._waiting = changed
            return
        self._waiting = None
        others = _changed_sections(self._current.config, changed.config)
        lines = [str(changed.document.error([key], "has changed; start the edge again for it")) for key in others]
        self._alarms.set_or_clear(_ALARM, "\n".join(lines) or None)

    def _signature(self) -> _Signature | None:
        """What tells one state of the file from another; None: it is not there."""
        try:
            found = self._current.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _changed_sections(before: SiteConfig, after: SiteConfig) -> list[str]:
    """What is read only when the edge starts, and is not as it was."""
    return [
        key for key in SiteConfig.model_fields if key != "controller" and getattr(before, key) != getattr(after, key)
    ]
