"""The devices of the site as the registry has them now: a poller for each, and the controller over those of the plan.

``apply`` takes a new snapshot of the registry and changes only what differs: a device that stays as it was goes on
being polled by the same task over the same connection.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from flux.control.feed import ControlFeed
from flux.control.plan import ControllerPlan, plan_hash
from flux.devices.client import ConnectionPool
from flux.devices.driver import DeviceDriver, Poll, driver_for
from flux.devices.template import DeviceTemplate
from flux.edge.alarms import Alarms
from flux.edge.background import Background
from flux.edge.build import build_controller
from flux.edge.by_hand import ByHand
from flux.edge.config import DEFAULT_POLLING_INTERVAL, RecordingConfig, SiteConfig
from flux.edge.control_loop import ControlLoop, SiteController
from flux.edge.controlled import ControlledBattery
from flux.edge.decisions import SHADOW_ALARM, Decisions
from flux.edge.link import RegistrySnapshot
from flux.edge.newest import NewestPolls
from flux.edge.plan_check import Problem, problems_of_plan, sort_devices
from flux.edge.poller import DevicePoller
from flux.edge.templates import TemplateShelf
from flux.edge.ticks import Clock, Sleep
from flux.model import Device, DeviceError, DeviceState
from flux.store.encoding import Recorded

_logger = structlog.get_logger(__name__)

_CONTROL_TASK = "controller"
_DEVICE_ALARM = "device"
_OFFLINE_ALARM = "offline"
_STATE_WORDS = {
    DeviceState.MAINTENANCE: "in maintenance",
    DeviceState.FAILED: "marked as failed",
    DeviceState.REGISTERED: "not commissioned yet",
    DeviceState.CONFIGURED: "not commissioned yet",
}


@dataclass(slots=True)
class SiteDevice:
    """A device that this edge knows how to talk to. ``device`` is the registry's row of now."""

    device: Device
    template: DeviceTemplate
    driver: DeviceDriver
    without_timeout: bool
    poller: DevicePoller | None = None

    @property
    def task(self) -> str:
        return f"poll {self.device.name}"

    def same_as(self, device: Device, template: DeviceTemplate, without_timeout: bool) -> bool:
        """Whether the driver may stay: nothing has changed but the state of life."""
        mine = (self.device.name, self.device.type, self.device.metadata, self.template, self.without_timeout)
        return mine == (device.name, device.type, device.metadata, template, without_timeout)


class Site:
    """Pollers and controller of one site."""

    def __init__(
        self,
        config: SiteConfig,
        shelf: TemplateShelf,
        pool: ConnectionPool,
        background: Background,
        alarms: Alarms,
        record: Callable[[Sequence[Recorded]], None],
        *,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        answered: Callable[[Device], None] = lambda _device: None,
        polled: Callable[[Device, Poll | DeviceError], None] = lambda _device, _outcome: None,
        stopped: Callable[[], str | None] = lambda: None,
        withheld: Callable[[], str | None] = lambda: None,
        prepare: Callable[[ControlledBattery], None] = lambda _battery: None,
        feed: Callable[[], ControlFeed] = ControlFeed,
        by_hand: ByHand | None = None,
    ) -> None:
        """``stopped``: why operators want it at 0 kW; ``withheld``: why nothing may be sent; None: neither.

        ``prepare`` is given each battery before it is controlled for the first time; ``feed`` is what the platform
        told last, ``by_hand`` what somebody set.
        """
        self._config = config
        self._plan = config.controller
        self._shelf = shelf
        self._pool = pool
        self._background = background
        self._alarms = alarms
        self._record = record
        self._clock = clock
        self._sleep = sleep
        self._answered = answered
        self._polled = polled
        self._stopped = stopped
        self._withheld = withheld
        self._prepare = prepare
        self._feed = feed
        self._by_hand = by_hand or ByHand()
        self.snapshot = RegistrySnapshot()
        self.newest = NewestPolls()
        self.devices: dict[UUID, SiteDevice] = {}
        self.controller: SiteController | None = None
        self._plan_problem: str | None = None
        self._decisions: Decisions | None = None
        self._changing = asyncio.Lock()

    async def apply(self, snapshot: RegistrySnapshot) -> None:
        """Make pollers and controller fit ``snapshot``; a battery that is to rest is told so now, not in a while."""
        before = self.halted()
        async with self._changing:
            await self._apply(snapshot)
        if (reason := self.halted()) is not None and reason != before:
            await self.wake()

    async def _apply(self, snapshot: RegistrySnapshot) -> None:
        self.snapshot = snapshot
        wanted, unusable = self._sort(snapshot)
        for device in snapshot.devices:
            problem = unusable.get(device.name) if device.polled else None
            self._alarms.set_or_clear(f"{_DEVICE_ALARM}:{device.name}", problem)
        self._forget_alarms({device.name for device in snapshot.devices})
        self._plan_problem = self._problem_of_plan(snapshot)
        await self._rest_first(wanted)
        # all that leave or change first: one may take over the name or the address of another
        for device_id, one in list(self.devices.items()):
            if device_id not in wanted or not one.same_as(*wanted[device_id], self._without_timeout):
                await self._leave(device_id)
        for device, template in wanted.values():
            await self._take(device, template)
        self._alarms.set_or_clear("plan", self._plan_problem)
        await self._fit_controller()

    def _forget_alarms(self, names: set[str]) -> None:
        """Take down those of devices that the registry no longer has."""
        for alarm in self._alarms.active:
            prefix, _, name = alarm.key.partition(":")
            if prefix == _DEVICE_ALARM and name not in names:
                self._alarms.clear(alarm.key, "the device is gone from the registry")

    def problems_of_plan(self, snapshot: RegistrySnapshot) -> list[Problem]:
        """What is wrong with the plan for the devices of ``snapshot``."""
        return self._problems_of(self._plan, snapshot)

    def _problems_of(self, plan: ControllerPlan | None, snapshot: RegistrySnapshot) -> list[Problem]:
        if plan is None:
            return []
        usable, unusable = self._sort(snapshot)
        templates = {device.name: template for device, template in usable.values()}
        return list(problems_of_plan(plan, self._config.site, snapshot.devices, templates, unusable))

    @property
    def _without_timeout(self) -> bool:
        """Whether the plan accepts batteries without a command timeout."""
        return self._plan is not None and self._plan.without_timeout is not None

    @property
    def has_plan(self) -> bool:
        return self._plan is not None

    @property
    def shadow_plans(self) -> Mapping[str, ControllerPlan]:
        return self._config.shadow_plans

    @property
    def recording(self) -> RecordingConfig:
        return self._config.recording

    async def change_plan(self, plan: ControllerPlan | None) -> list[Problem]:
        """Take up another plan without a gap, or tell what is wrong with it and go on with the one before."""
        async with self._changing:
            problems = self._problems_of(plan, self.snapshot)
            if problems or plan == self._plan:
                return problems
            before, self._plan = self._plan, plan
            await self._let_down(before)
            await self._apply(self.snapshot)
            await self._fit_intervals()
        _logger.info("the plan has changed", plan=None if plan is None else plan_hash(plan))
        return []

    async def wake(self) -> None:
        """Run a cycle of the controller now, as when operators stop the site."""
        if self.controller is not None:
            await self.controller.cycle(self._clock())

    def halted(self) -> str | None:
        """Why control is to rest now; None: it is not."""
        if (stopped := self._stopped()) is not None:
            return stopped
        if self._plan_problem is not None:
            return self._plan_problem
        if self._plan is None:
            return None
        return self._unfit_battery()

    def _unfit_battery(self) -> str | None:
        """The first battery of the plan for which all of them rest, in words."""
        assert self._plan is not None  # noqa: S101 - its caller has looked
        for battery in self.controller.batteries if self.controller else ():
            if battery.other_master is not None:
                return f"{battery.name} is commanded by somebody else: {battery.other_master}"
        states = {one.device.name: one.device for one in self.devices.values()}
        for name in self._plan.bess:
            device = states.get(name)
            if device is None:
                return f"{name} is not in the registry"
            if not device.polled:
                return f"{name} is {_STATE_WORDS.get(device.state, 'inactive')}"
        return None

    async def stop_polling(self) -> None:
        """Stop every poller."""
        await self._background.stop(*(one.task for one in self.devices.values()))

    async def stop_control(self) -> None:
        """Stop the control loop; the batteries are told nothing."""
        await self._background.stop(_CONTROL_TASK)

    def _sort(self, snapshot: RegistrySnapshot) -> tuple[dict[UUID, tuple[Device, DeviceTemplate]], dict[str, str]]:
        """The devices that can be talked to, by id, and for the names of the others why not."""
        return sort_devices(snapshot, self._shelf, self._clock)

    def _problem_of_plan(self, snapshot: RegistrySnapshot) -> str | None:
        problems = [f"{'.'.join(map(str, path))}: {message}" for path, message in self.problems_of_plan(snapshot)]
        return "; ".join(problems) or None

    async def _leave(self, device_id: UUID) -> None:
        one = self.devices[device_id]
        await self._stop_poller(one)
        del self.devices[device_id]  # the controller keeps the driver of a battery until it has acknowledged 0 kW
        await self._let_go(one)
        _logger.info("device left the site", device=one.device.name)

    async def _rest_first(self, wanted: Mapping[UUID, tuple[Device, DeviceTemplate]]) -> None:
        """0 kW to the batteries whose polling is about to end, by the drivers that they were commanded with."""
        ending = []
        for device_id, one in self.devices.items():
            device = wanted[device_id][0] if device_id in wanted else None
            if one.poller is None or (device is not None and device.polled):
                continue
            ending.append(one.device.name)
            # a cycle that comes between sees that it is to rest; what else changed of the device is looked at later
            state = DeviceState.DECOMMISSIONED if device is None else device.state
            one.device = one.device.model_copy(update={"active": False, "state": state})
        if self.controller is None or not ending:
            return
        async with self.controller.between_cycles():
            if not await self.controller.rest(ending):
                _logger.warning("a battery that is no longer polled did not acknowledge 0 kW", batteries=ending)

    async def _let_go(self, one: SiteDevice) -> None:
        """Close the connection that only this device used."""
        place = (one.device.metadata.host, one.device.metadata.port)
        others = [other.device.metadata for other in self.devices.values()]
        commanded = [battery.driver for battery in self.controller.batteries] if self.controller else []
        if one.driver not in commanded and place not in [(other.host, other.port) for other in others]:
            await self._pool.discard(place[0] or "", place[1])

    async def _take(self, device: Device, template: DeviceTemplate) -> None:
        one = self.devices.get(device.id)
        if one is None:
            accepted = self._without_timeout
            driver = driver_for(device, template, self._pool, self._clock, without_timeout=accepted)
            one = self.devices[device.id] = SiteDevice(device, template, driver, accepted)
        one.device = device
        if device.polled and one.poller is None:
            self._start_poller(one)
        elif not device.polled and one.poller is not None:
            await self._stop_poller(one)
            one.poller = None
            _logger.info("device is no longer polled", device=device.name, state=device.state, active=device.active)

    async def _stop_poller(self, one: SiteDevice) -> None:
        """Nothing is known of a device that is not polled, not even that it does not answer."""
        await self._background.stop(one.task)
        self.newest.forget(one.device.name)
        self._alarms.clear(f"{_OFFLINE_ALARM}:{one.device.name}", "it is no longer polled")

    def _start_poller(self, one: SiteDevice) -> None:
        interval = self._recording_interval(one)
        control = self._control_interval(one)
        poller = DevicePoller(
            one.driver,
            interval,
            control,
            self.newest,
            self._record,
            clock=self._clock,
            sleep=self._sleep,
            command_source=lambda: self._command_source(one.device.name),
            answered=lambda: self._answered(one.device),
            returned=one.driver.forget,
            away=partial(self._alarms.set_or_clear, f"{_OFFLINE_ALARM}:{one.device.name}"),
            outcome=lambda outcome: self._polled(one.device, outcome),
        )
        self._background.start(one.task, poller.run)
        one.poller = poller
        _logger.info(
            "polling", device=one.device.name, interval_s=interval.total_seconds(), control=control is not None
        )

    def _recording_interval(self, one: SiteDevice) -> timedelta:
        candidates = (
            one.device.metadata.polling_interval,
            self._config.recording.polling_interval,
            one.template.default_config.polling_interval,
        )
        return next((interval for interval in candidates if interval is not None), DEFAULT_POLLING_INTERVAL)

    def _control_interval(self, one: SiteDevice) -> timedelta | None:
        if self._plan is None or one.device.name not in _named_by(self._plan):
            return None
        return self._plan.interval

    def _command_source(self, name: str) -> int | None:
        """What a reading of the battery ``name`` says; None for one that this edge does not control."""
        for battery in self.controller.batteries if self.controller else ():
            if battery.name == name:
                return int(battery.command_source(self._clock()))
        return None

    async def _fit_controller(self) -> None:
        """Build the controller anew when a driver that it uses has changed; one that may not go on is ``halted``."""
        if self._plan is None or self._plan_problem is not None:
            return
        before = self.controller
        if before is None and self._unfit_battery() is not None and self._plan.without_timeout is None:
            # nobody here has commanded this battery, and silence has made it safe: in maintenance it is left alone
            _logger.info("control does not begin yet", reason=self._unfit_battery())
            return
        planned = self._plan.site
        controller = build_controller(
            self._plan,
            self._drivers(),
            self.newest,
            clock=self._clock,
            halt=self.halted,
            withheld=self._withheld,
            observe=self._ledger_of(self._plan).observe,
            outside=lambda now: self._feed().at(now, planned),
            by_hand=lambda now: self._by_hand.at(now, self.halted()),
            tell=self._alarms.set_or_clear,
        )
        if before is not None and controller.plan is before.plan and controller.uses_drivers_of(before):
            return
        for battery in controller.batteries:
            self._prepare(battery)
        if before is not None:
            async with before.between_cycles():
                await self._background.stop(_CONTROL_TASK)
                controller.take_over(before)
        self.controller = controller
        self._background.start(
            _CONTROL_TASK, ControlLoop(controller, self.newest, clock=self._clock, sleep=self._sleep).run
        )

    def _ledger_of(self, plan: ControllerPlan) -> Decisions:
        """Where what is decided is kept; the one before, with what its shadow plans have begun, if it fits."""
        first = next(one.device.id for one in self.devices.values() if one.device.name == plan.bess[0])
        if self._decisions is None or not self._decisions.fits(plan, first):
            self._decisions = Decisions(plan, {}, first, self._record, self._alarms)
        self._decisions.change_shadows(self._shadows_beside(plan))
        return self._decisions

    def _shadows_beside(self, plan: ControllerPlan) -> dict[str, ControllerPlan]:
        """The shadow plans that can decide on the states of ``plan``: those of the same devices."""
        fitting = {}
        for name, shadow in self._config.shadow_plans.items():
            if _devices_of(shadow) == _devices_of(plan):
                fitting[name] = shadow
            else:
                text = f"shadow plan {name} is of other devices than the plan in force"
                self._alarms.set(f"{SHADOW_ALARM}:{name}", text)
        return fitting

    async def change_shadows(self, shadows: Mapping[str, ControllerPlan]) -> None:
        """Let these plans decide beside the one in force."""
        async with self._changing:
            for name in self._config.shadow_plans.keys() - shadows.keys():
                self._alarms.clear(f"{SHADOW_ALARM}:{name}")
            self._config = self._config.model_copy(update={"shadow_plans": dict(shadows)})
            if self._plan is not None and self._decisions is not None:
                self._decisions.change_shadows(self._shadows_beside(self._plan))
        _logger.info("the shadow plans have changed", plans=sorted(shadows))

    async def change_recording(self, recording: RecordingConfig) -> None:
        """Record at other intervals from now on."""
        async with self._changing:
            self._config = self._config.model_copy(update={"recording": recording})
            await self._fit_intervals()

    def begin_with(self, plan: ControllerPlan, snapshot: RegistrySnapshot) -> list[Problem]:
        """Before anything was applied: take ``plan`` in place of the site file's, unless something is wrong with it."""
        problems = self._problems_of(plan, snapshot)
        if not problems:
            self._plan = plan
        return problems

    async def _let_down(self, before: ControllerPlan | None) -> None:
        """0 kW to the batteries that the plan no longer names; one that does not answer has its own timeout."""
        left = [name for name in before.bess if self._plan is None or name not in self._plan.bess] if before else []
        old = self.controller
        if old is None or not left:
            return
        if self._plan is None:
            await self.stop_control()
            self.controller = None
        async with old.between_cycles():
            if not await old.rest(left):
                _logger.warning("a battery that left the plan did not acknowledge 0 kW", batteries=left)

    async def _fit_intervals(self) -> None:
        """Start pollers anew whose intervals are others now."""
        for one in self.devices.values():
            wanted = (self._recording_interval(one), self._control_interval(one))
            if one.poller is not None and (one.poller.recording_interval, one.poller.control_interval) != wanted:
                health = one.poller.health
                await self._background.stop(one.task)
                self._start_poller(one)
                one.poller.health = health

    def _drivers(self) -> dict[str, DeviceDriver]:
        return {one.device.name: one.driver for one in self.devices.values()}


def _devices_of(plan: ControllerPlan) -> tuple[object, ...]:
    return plan.site_meter, plan.bess, plan.bess_meter


def _named_by(plan: ControllerPlan) -> frozenset[str]:
    return frozenset([plan.site_meter, *plan.bess, *plan.bess_meter])
