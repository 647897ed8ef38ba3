"""A simulated site in fast time: the same drivers, the same controller, no sockets, no waiting.

A week of five devices recorded each minute takes well under a minute of real time.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from flux.control.feed import Outside
from flux.control.plan import ControllerPlan
from flux.control.state import MarketState
from flux.devices.driver import DeviceDriver
from flux.devices.simulator import SimulatedSite, memory_transport
from flux.edge.build import build_controller
from flux.edge.control_loop import SiteController
from flux.edge.decisions import Observer, observe_nothing
from flux.edge.newest import NewestPolls
from flux.edge.plan_check import problems_of_plan
from flux.edge.ticks import tick_after
from flux.model import Device, InputError, Reading

_SINK_EVERY = timedelta(hours=1)
_STEPS_PER_TIMEOUT = 3


async def run_fast(
    site: SimulatedSite,
    plan: ControllerPlan | None,
    devices: Sequence[Device],
    start: datetime,
    end: datetime,
    *,
    control_interval: timedelta,
    record_interval: timedelta,
    sink: Callable[[list[Reading]], Awaitable[None]],
    progress: Callable[[datetime], None] = lambda _done: None,
    observe: Observer = observe_nothing,
    market: Callable[[datetime], MarketState] = lambda _now: MarketState(),
) -> None:
    """Run ``site`` from ``start`` (where it is) to ``end``, controlled by ``plan``, and give its readings to ``sink``.

    ``devices`` are the registry's rows of what is simulated, by the same names. Recorded are the grid instants of
    ``record_interval`` in (start, end]. ``sink`` gets an hour at a time, in order; ``progress`` is called after each.
    ``observe`` is told of each cycle, ``market`` asked what is known of the market then.
    Raises InputError for a plan that does not fit the devices.
    """
    run = _FastSite.of(site, plan, devices, control_interval, observe, market)
    next_control, next_record = tick_after(start, control_interval), tick_after(start, record_interval)
    next_sink = tick_after(start, _SINK_EVERY)
    readings: list[Reading] = []
    while (now := min(next_control, next_record)) <= end:
        if now >= next_sink:
            await sink(readings)
            readings = []
            progress(now)
            next_sink = tick_after(now, _SINK_EVERY)
        run.advance(now)
        if now == next_record:
            readings += await run.record()
            next_record += record_interval
        if now == next_control:
            await run.control(polled=now == next_record - record_interval)
            next_control += control_interval
    run.advance(end)
    await sink(readings)
    progress(end)


@dataclass(slots=True)
class _FastSite:
    """Drivers over the memory of a simulated site, and the controller over them."""

    site: SimulatedSite
    drivers: dict[str, DeviceDriver]
    newest: NewestPolls
    controller: SiteController | None = None
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.site.time

    @classmethod
    def of(
        cls,
        site: SimulatedSite,
        plan: ControllerPlan | None,
        devices: Sequence[Device],
        control_interval: timedelta,
        observe: Observer,
        market: Callable[[datetime], MarketState],
    ) -> "_FastSite":
        self = cls(site, {}, NewestPolls())
        for device in devices:
            self.drivers[device.name] = self._driver(device, plan, control_interval)
        if plan is not None:
            stepped = at_interval(plan, control_interval)
            templates = {name: driver.template for name, driver in self.drivers.items()}
            for path, message in problems_of_plan(plan, site.config.site, devices, templates, {}):
                raise InputError(f"controller.{'.'.join(map(str, path))}: {message}")
            self.controller = build_controller(
                stepped,
                self.drivers,
                self.newest,
                clock=lambda: self.now,
                observe=observe,
                outside=lambda now: Outside(market(now)),
                quiet=True,
            )
        return self

    def _driver(self, device: Device, plan: ControllerPlan | None, control_interval: timedelta) -> DeviceDriver:
        template = self.site.device(device.name).template
        own = template.control.timeout if template.control else None
        longest_s = _STEPS_PER_TIMEOUT * control_interval.total_seconds()
        return DeviceDriver(
            device,
            template,
            memory_transport(self.site, device.name),
            lambda: self.now,
            without_timeout=plan is not None and plan.without_timeout is not None,
            command_timeout_s=None if own is None else max(own.value, longest_s),
        )

    def advance(self, to: datetime) -> None:
        self.site.step(to)
        self.now = to

    async def record(self) -> list[Reading]:
        """Poll every device whole."""
        readings = []
        for name, driver in self.drivers.items():
            poll = await driver.poll()
            self.newest.put(name, poll)
            readings.append(driver.reading(poll, command_source=self._command_source(name)))
        return readings

    async def control(self, *, polled: bool) -> None:
        """One cycle; the devices it needs are polled first unless they just were."""
        if self.controller is None:
            return
        if not polled:
            for name in self.controller.needed:
                driver = self.drivers[name]
                self.newest.put(name, await driver.poll(driver.control_names))
        await self.controller.cycle(self.now)

    def _command_source(self, name: str) -> int | None:
        for battery in self.controller.batteries if self.controller else ():
            if battery.name == name:
                return int(battery.command_source(self.now))
        return None


def at_interval(plan: ControllerPlan, interval: timedelta) -> ControllerPlan:
    """The plan with another interval, and readings allowed to be as old as that makes them."""
    fields = {name: getattr(plan, name) for name in ControllerPlan.model_fields}
    return ControllerPlan(**fields | {"interval": interval, "max_reading_age": max(plan.max_reading_age, 2 * interval)})
