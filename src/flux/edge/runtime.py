"""The edge of one site: polls, controls, records, and sends what it recorded to the platform.

::

    async with EdgeRuntime(site_file, link, home):   # refuses before anything is begun, or runs
        ...                                          # leaving it: 0 kW, everything on disk, one last upload

Nothing here waits for the platform: devices and templates are kept from the last time that it answered.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from flux.devices.client import ConnectionPool
from flux.edge.alarms import Alarms
from flux.edge.background import Background
from flux.edge.by_hand import ByHand
from flux.edge.config import RecordingConfig, SiteFile
from flux.edge.controlled import ControlledBattery
from flux.edge.feed import FeedFollower
from flux.edge.health import HealthRules, HealthWatch
from flux.edge.job_kinds import JobKinds
from flux.edge.jobs import JobRunner
from flux.edge.learned import LearnedStore
from flux.edge.lease import ControlLease
from flux.edge.link import PlatformLink, RegistrySnapshot
from flux.edge.locks import HeldLock, site_lock_path
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import OutboxError, OutboxFile
from flux.edge.plan_file import SiteFileFollower
from flux.edge.platform import ClockCheck, RegistryFollower, StateReporter, without_loss
from flux.edge.recorder import Recorder
from flux.edge.site import Site
from flux.edge.status import STATUS_FILE, StatusReport, WritesBefore, write_status
from flux.edge.switch import StopSwitch
from flux.edge.templates import TemplateShelf
from flux.edge.ticks import Clock, Sleep, system_clock
from flux.edge.uploader import Uploader
from flux.model import FluxError, InputError, UnavailableError

_logger = structlog.get_logger(__name__)

_FIRST_ANSWER_S = 10.0
_FIRST_FEED_S = 3.0
# A command may take a control interval, and be tried again; all of stopping ends before a supervisor insists (20 s).
_STOP_CONTROL_S = 7.0
_GIVE_BACK_S = 2.0
_LAST_UPLOAD_S = 3.0
_STATUS_EVERY_S = 2.0


class EdgeRuntime:
    """One site's edge; ``async with`` or :meth:`start` and :meth:`stop`.

    ``platform`` names the platform for the lock that keeps two edges of one site apart on a host.
    """

    def __init__(
        self,
        site_file: SiteFile,
        link: PlatformLink,
        home: Path,
        *,
        platform: str,
        clock: Clock = system_clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        config, recording = site_file.config, site_file.config.recording
        self._site_file = site_file
        self._link = link
        self._sleep = sleep
        self._state_dir = site_file.state_dir(home)
        self._platform = platform
        self._locks = ExitStack()
        self._pool = ConnectionPool()
        self.alarms = alarms = Alarms(clock)
        self._background = Background(alarms, sleep)
        self._outbox = Outbox(OutboxFile(self._state_dir / "outbox.sqlite", clock), alarms)
        self._learned = LearnedStore(self._state_dir / "learned.sqlite", clock)
        self._feed = FeedFollower(link, self._learned, sleep)
        self._reporter = StateReporter(link, sleep)
        self._clock_check = ClockCheck(link, alarms, clock, sleep)
        self.recorder = Recorder(self._outbox, alarms, recording.memory_readings, sleep)
        self.uploader = Uploader(self.recorder, link, alarms, recording.largest_batch, sleep=sleep)
        self._lease = ControlLease(
            link,
            self._state_dir,
            alarms,
            wanted=lambda: self.site.has_plan,
            took_over=self._took_over,
            sleep=sleep,
        )
        self._switch = StopSwitch(
            self._state_dir,
            link,
            alarms,
            batteries=lambda: self.site.controller.batteries if self.site.controller else (),
            changed=self._stop_changed,
            acknowledged=lambda: self.site.controller is not None and self.site.controller.stop_acknowledged,
            sleep=sleep,
        )
        self._writes_before = WritesBefore()
        health = config.health
        rules = HealthRules(health.interval, health.slow, health.error_share, offline_after=health.offline_after)
        self._health = HealthWatch(rules, self._pool, self.recorder.record, self._reporter.failed, clock)
        self._after_another = False
        self._clock = clock
        by_hand = ByHand()
        self.site = Site(
            config,
            TemplateShelf(site_file.templates_dir),
            self._pool,
            self._background,
            alarms,
            self.recorder.record,
            clock=clock,
            sleep=sleep,
            answered=self._reporter.answered,
            polled=self._health.polled,
            stopped=lambda: self._switch.reason,
            withheld=lambda: self._lease.refusal,
            prepare=self._prepare,
            feed=lambda: self._feed.feed,
            by_hand=by_hand,
        )
        self._follower = RegistryFollower(link, self._learned, self._apply, sleep, alarms=alarms)
        kinds = JobKinds(
            self.site,
            by_hand,
            link,
            stopped=lambda: self._switch.reason,
            look=self._follower.look,
            clock=clock,
            sleep=sleep,
        )
        self._jobs = JobRunner(link, kinds.run, lambda: self._lease.holder, sleep=sleep)
        self._site_file_follower = SiteFileFollower(
            site_file,
            self.site,
            alarms,
            sleep,
            pushed=lambda: self._feed.feed.plan,
            recording=self._change_recording,
        )
        self._report = StatusReport(
            config.site,
            self.site,
            self.recorder,
            self.uploader,
            alarms,
            clock,
            lambda: self._clock_check.difference_s,
            pushed=lambda: self._site_file_follower.in_force,
        )

    @property
    def status_file(self) -> Path:
        return self._state_dir / STATUS_FILE

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Check everything, then begin; when this raises, nothing was begun."""
        try:
            snapshot = await self._first_snapshot()
            self._check_plan(snapshot)
            self._take_locks()
            await self._open_outbox()
            await self._feed.begin(_FIRST_FEED_S)
            self._site_file_follower.begin(snapshot)
            await self._learn_who_owns_control()
            await self._begin(snapshot)
        except BaseException:
            await self._background.stop()
            await self._let_go()
            raise
        site = self._site_file.config.site
        _logger.info("edge started", site=site, devices=len(self.site.devices), waiting=self.recorder.depth)

    async def _begin(self, snapshot: RegistrySnapshot) -> None:
        self._background.start("outbox", self.recorder.run)
        await self._follower.take(snapshot)
        self._background.start("uploader", self.uploader.run)
        self._background.start("registry", self._follower.run)
        self._background.start("control feed", self._feed.run)
        self._background.start("state reports", self._reporter.run)
        self._background.start("clock check", self._clock_check.run)
        self._background.start("control lease", self._lease.run)
        self._background.start("stop switch", self._switch.run)
        self._background.start("stop reports", self._switch.report)
        self._background.start("jobs", self._jobs.run)
        self._background.start("site file", self._site_file_follower.run)
        self._background.start("status", self._write_status_for_ever)

    async def _learn_who_owns_control(self) -> None:
        """Before anything is commanded: stops that are in force, and whether this edge has the control lease."""
        self._switch.load()
        self._writes_before = WritesBefore.read(self.status_file)
        self._lease.load()
        if not self.site.has_plan:
            return
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                await self._lease.ask()
        except (UnavailableError, TimeoutError):  # what it said last counts; the uploader's alarm tells of it
            return

    def _took_over(self) -> None:
        """The edge that had the control lease before may not know yet that it lost it."""
        self._after_another = True
        for battery in self.site.controller.batteries if self.site.controller else ():
            battery.wait_for_rest(self._clock())

    def _prepare(self, battery: ControlledBattery) -> None:
        """What an earlier run knew of a battery."""
        self._writes_before.carry_to(battery)
        if self._after_another:
            battery.wait_for_rest(self._clock())
        found = self._switch.other_masters.get(battery.name)
        if found is not None and battery.other_master is None:
            battery.hold(found)

    async def _apply(self, snapshot: RegistrySnapshot) -> None:
        self._switch.heard(snapshot)
        await self._switch.look()
        await self.site.apply(snapshot)
        self._reporter.follow(snapshot.devices)

    def _change_recording(self, recording: RecordingConfig) -> None:
        self.recorder.change_memory_limit(recording.memory_readings)
        self.uploader.change_largest_batch(recording.largest_batch)

    async def _stop_changed(self) -> None:
        """A stop began or ended: control hears of it now, not with the next tick, and so does who watches the file."""
        await self.site.wake()
        await self._write_status(running=True)

    async def stop(self) -> None:
        """0 kW to the batteries, every reading on disk, and a short last try to send them."""
        await self._background.stop("jobs", "stop switch", "site file", "registry")
        await self._within(_STOP_CONTROL_S, "0 kW to the batteries", self._stop_control())
        await self._background.stop("control lease")
        await self._within(_GIVE_BACK_S, "giving the control lease back", self._lease.release())
        await self.site.stop_polling()
        await self._background.stop()
        await self.recorder.flush()
        await self._within(_LAST_UPLOAD_S, "last upload", self.uploader.send_all())
        await self._write_status(running=False)
        waiting = self.recorder.depth
        await self._let_go()
        _logger.info("edge stopped", site=self._site_file.config.site, waiting=waiting)

    async def _let_go(self) -> None:
        """Close what is open."""
        await self._outbox.stop()
        await self._pool.aclose()
        await self._link.close()
        self._locks.close()

    async def _first_snapshot(self) -> RegistrySnapshot:
        """The registry as the platform has it, else as it was when the platform last answered."""
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                told = await self._link.registry()
            return told if told.devices else without_loss(told, await asyncio.to_thread(self._learned.load_registry))
        except (UnavailableError, TimeoutError) as error:
            why = str(error) or f"the platform did not answer within {_FIRST_ANSWER_S:g} s"
        learned = await asyncio.to_thread(self._learned.load_registry)
        if learned is None:
            site = self._site_file.config.site
            raise UnavailableError(f"{why}; nothing is known yet of the devices of site {site}, so it can't begin")
        _logger.warning("platform does not answer, starting with what was learned before", error=why)
        return learned

    def _check_plan(self, snapshot: RegistrySnapshot) -> None:
        problems = self.site.problems_of_plan(snapshot)
        if problems:
            lines = [str(self._site_file.document.error(["controller", *path], text)) for path, text in problems]
            raise InputError("\n".join(lines))

    def _take_locks(self) -> None:
        site = self._site_file.config.site
        self._locks.enter_context(HeldLock(self._state_dir / "lock", f"state folder {self._state_dir}"))
        self._locks.enter_context(HeldLock(site_lock_path(self._platform, site), f"site {site}"))

    async def _open_outbox(self) -> None:
        """A disk that refuses stops an edge that never ran here; one that ran before goes on and controls."""
        ran_before = self._outbox.exists
        try:
            await self._outbox.start()
        except OutboxError as error:
            if not ran_before:
                hint = f"free some space, or name another folder with state_dir in {self._site_file.path}"
                raise UnavailableError(f"{error}; {hint}") from error
            _logger.warning("outbox can't be opened yet, readings wait in memory", error=str(error))

    async def _stop_control(self) -> None:
        await self.site.stop_control()
        if self.site.controller is None:
            return
        while not await self.site.controller.shut_down("the edge is stopping"):
            await self._sleep(0.2)

    async def _within(self, limit_s: float, what: str, work: Awaitable[None]) -> None:
        """A step of stopping: one that fails or takes too long is told and does not hold up the rest."""
        try:
            async with asyncio.timeout(limit_s):
                await work
        except (TimeoutError, FluxError) as error:
            _logger.warning("not done while stopping", what=what, error=str(error) or f"took longer than {limit_s:g} s")
        except Exception:  # a bug in one step must not keep the readings of the others from the disk
            _logger.exception("not done while stopping", what=what)

    async def _write_status_for_ever(self) -> None:
        while True:
            await self._write_status(running=True)
            await self._sleep(_STATUS_EVERY_S)

    async def _write_status(self, *, running: bool) -> None:
        snapshot = self._report.snapshot(running=running)
        try:
            await asyncio.to_thread(write_status, self.status_file, snapshot)
        except OSError as error:
            self.alarms.set("status_file", f"{self.status_file}: {error.strerror}")
        else:
            self.alarms.clear("status_file")
