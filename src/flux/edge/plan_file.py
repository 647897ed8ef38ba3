"""Follows the plan: ``site.yaml`` with the files that it names, and a plan that was pushed from the platform.

What has changed is taken up when it is valid, else told with file and line. A pushed plan goes before the site file's,
until it is withdrawn there. Shadow plans and the ``recording`` section are the file's in any case.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from flux.control.feed import PushedPlan
from flux.control.ledger import plan_of_text
from flux.control.plan import ControllerPlan
from flux.edge.alarms import Alarms
from flux.edge.config import RecordingConfig, SiteConfig, SiteFile, files_of, load_site_file
from flux.edge.link import RegistrySnapshot
from flux.edge.site import Site
from flux.edge.ticks import Sleep
from flux.model import FluxError

_logger = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
_ALARM = "site_file"
_PUSHED_ALARM = "pushed_plan"
_TAKEN_UP = ("controller", "shadow_plans", "recording")

_Signature = tuple[tuple[int, int, int] | None, ...]


class SiteFileFollower:
    """Gives what a changed site file, or a pushed plan, says to ``site``."""

    def __init__(
        self,
        site_file: SiteFile,
        site: Site,
        alarms: Alarms,
        sleep: Sleep = asyncio.sleep,
        *,
        pushed: Callable[[], PushedPlan | None] = lambda: None,
        recording: Callable[[RecordingConfig], None] = lambda _recording: None,
    ) -> None:
        """``recording`` is told of another ``recording`` section, besides the site."""
        self._started = site_file.config
        self._file = site_file
        self._site = site
        self._alarms = alarms
        self._sleep = sleep
        self._pushed = pushed
        self._recording = recording
        self._files = site_file.files
        self._seen = _signature(self._files)
        self._tried: PushedPlan | None = None
        self.in_force: PushedPlan | None = None
        """The pushed plan that controls; None: the site file's does."""
        self._waiting = False
        self._tried_with: RegistrySnapshot | None = None

    def begin(self, snapshot: RegistrySnapshot) -> None:
        """Before the site begins: a plan that was pushed takes the place of the file's."""
        self._tried = pushed = self._pushed()
        if pushed is None:
            return
        plan, problem = _parsed(pushed)
        if plan is not None:
            problem = _in_words(self._site.begin_with(plan, snapshot))
        self.in_force = pushed if problem is None else None
        self._tell_of_pushed(pushed, problem)
        self._waiting, self._tried_with = problem is not None, snapshot

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            await self.look()
            await self._sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Take up what has changed since the last look; a plan that only the registry refused is tried again."""
        reread = await self._reread()
        pushed = self._pushed()
        again = self._waiting and self._site.snapshot is not self._tried_with
        if reread or again or pushed != self._tried:
            self._tried = pushed
            await self._take(pushed)

    async def _reread(self) -> bool:
        """Whether the files have changed and can be used."""
        signature = await asyncio.to_thread(_signature, self._files)
        if signature == self._seen:
            return False
        path = self._file.path
        self._files = await asyncio.to_thread(files_of, path)
        self._seen = _signature(self._files)
        if self._seen[0] is None:
            self._alarms.set(_ALARM, f"{path}: it is gone; the plan as it was goes on")
            return False
        try:
            self._file = await asyncio.to_thread(load_site_file, path)
        except FluxError as error:
            self._alarms.set(_ALARM, f"{error}; the plan as it was goes on")
            return False
        return True

    async def _take(self, pushed: PushedPlan | None) -> None:
        self._tried_with = self._site.snapshot
        config = self._file.config
        lines = []
        if pushed is None:
            problems = await self._site.change_plan(config.controller)
            lines = [str(self._file.document.error(["controller", *path], text)) for path, text in problems]
            self._waiting = bool(problems)
            self.in_force = self.in_force if problems else None
            self._alarms.clear(_PUSHED_ALARM)
        else:
            plan, problem = _parsed(pushed)
            if plan is not None:
                problem = _in_words(await self._site.change_plan(plan))
            self._waiting = problem is not None
            self.in_force = self.in_force if problem else pushed
            self._tell_of_pushed(pushed, problem)
        if lines:
            self._alarms.set(_ALARM, "\n".join(lines) + "; the plan as it was goes on")
            return
        await self._take_the_rest(config)
        others = _changed_sections(self._started, config)
        lines = [str(self._file.document.error([key], "has changed; start the edge again for it")) for key in others]
        self._alarms.set_or_clear(_ALARM, "\n".join(lines) or None)

    async def _take_the_rest(self, config: SiteConfig) -> None:
        if config.shadow_plans != self._site.shadow_plans:
            await self._site.change_shadows(config.shadow_plans)
        if config.recording != self._site.recording:
            await self._site.change_recording(config.recording)
            self._recording(config.recording)

    def _tell_of_pushed(self, pushed: PushedPlan, problem: str | None) -> None:
        text = f"the plan {pushed.hash} that {pushed.actor} pushed: {problem}; the plan as it was goes on"
        self._alarms.set_or_clear(_PUSHED_ALARM, None if problem is None else text)


def _parsed(pushed: PushedPlan) -> tuple[ControllerPlan | None, str | None]:
    """The plan, or what is wrong with it."""
    try:
        plan = plan_of_text(json.loads(pushed.body))
        _ = plan.compiled
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        return None, str(error)
    for path, text in plan.overlaps():  # as in a file; by `flux control push` it could not have come
        return None, f"{'.'.join(map(str, path))}: {text}"
    return plan, None


def _in_words(problems: list[tuple[tuple[str | int, ...], str]]) -> str | None:
    return "; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in problems) or None


def _signature(files: tuple[Path, ...]) -> _Signature:
    """What tells one state of the files from another; None for one that is not there."""
    return tuple(map(_signature_of, files))


def _signature_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _changed_sections(before: SiteConfig, after: SiteConfig) -> list[str]:
    """What is read only when the edge starts, and is not as it was."""
    keys = [key for key in SiteConfig.model_fields if key not in _TAKEN_UP]
    return [key for key in keys if getattr(before, key) != getattr(after, key)]
