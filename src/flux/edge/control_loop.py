"""The control loop: freezes what was measured, decides, and tells the batteries.

``SiteController.cycle`` is the whole of one cycle; the live loop calls it at the plan's interval, and fast time
(`fast`) calls the same at simulated instants.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.plan import ControllerPlan
from flux.control.state import AcknowledgedCommand, BatteryCapability, CycleState, Measurement, Memory, Stop
from flux.edge.controlled import BatteryState, ControlledBattery, MeteredDevice, send_all, shares
from flux.edge.newest import NewestPolls
from flux.edge.ticks import Clock, Sleep, Ticks

_logger = structlog.get_logger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_COMMAND_S = 5.0
_POLLS_SHARE = 0.5
"""The part of an interval that a cycle waits for the polls of its own tick; then it decides on what there is."""


class SiteController:
    """Controls the batteries of one plan. ``halt`` says why control is to rest now, or None."""

    def __init__(
        self,
        plan: ControllerPlan,
        batteries: list[ControlledBattery],
        site_meter: MeteredDevice,
        newest: NewestPolls,
        *,
        clock: Clock,
        halt: Callable[[], str | None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        self.plan = plan
        self.batteries = batteries
        self._site_meter = site_meter
        self._newest = newest
        self._clock = clock
        self._halt = halt
        self._quiet = quiet
        self._memory = Memory()
        self._stop: Stop | None = None
        self._within_s = min(plan.interval.total_seconds(), _LONGEST_COMMAND_S)
        self.last: Decision | None = None
        self.cycles = 0
        self.failed_commands = 0

    @property
    def needed(self) -> frozenset[str]:
        """The devices whose newest values a cycle looks at."""
        meters = [battery.meter.device.name for battery in self.batteries if battery.meter is not None]
        return frozenset([self._site_meter.device.name, *meters, *(battery.name for battery in self.batteries)])

    def uses_drivers_of(self, other: "SiteController") -> bool:
        """Whether both talk to the same devices through the same drivers."""
        return self._drivers == other._drivers

    @property
    def _drivers(self) -> list[MeteredDevice | None]:
        batteries = [part for battery in self.batteries for part in (battery.driver, battery.meter)]
        return [self._site_meter, *batteries]

    def take_over(self, other: "SiteController") -> None:
        """Go on where ``other`` stops: what was begun, and what each battery acknowledged."""
        self._memory, self.last, self._stop = other._memory, other.last, other._stop
        self.cycles, self.failed_commands = other.cycles, other.failed_commands
        before = {battery.driver.device.id: battery for battery in other.batteries}
        for battery in self.batteries:
            if (known := before.get(battery.driver.device.id)) is not None:
                battery.take_over(known)

    async def cycle(self, now: datetime) -> Decision:
        """Freeze, decide, command. Commands that fail change nothing that the next cycle believes."""
        states = [battery.state() for battery in self.batteries]
        decision = decide(self.plan, self._cycle_state(now, states))
        if not self._quiet:
            self._note(decision)
        self._memory = decision.memory
        self.last = decision
        self.cycles += 1
        if decision.target_power_kw is not None:
            powers_kw = shares(states, decision.target_power_kw)
            needed = self._needed_at(now)
            if not await send_all(self.batteries, powers_kw, decision.command_source, self._within_s, needed):
                self.failed_commands += 1
        return decision

    def _needed_at(self, now: datetime) -> Callable[[ControlledBattery, float], bool]:
        if (stop := self._stop) is not None:  # what is asked for is an acknowledgement, so news or not it is sent, once
            return lambda battery, _power_kw: not battery.rests_since(stop.since)
        return lambda battery, power_kw: battery.needs(power_kw, now)

    async def shut_down(self, reason: str) -> bool:
        """Send 0 kW; True once every battery has acknowledged it.

        Where control rests already, a battery that acknowledged it then (one in maintenance) is told nothing more.
        """
        stop = self._stop = self._stop or Stop(reason, self._clock())
        self._halt = lambda: reason
        await self.cycle(self._clock())
        return all(battery.rests_since(stop.since) for battery in self.batteries)

    def _cycle_state(self, now: datetime, states: list[BatteryState]) -> CycleState:
        self._update_stop(now)
        timeouts = [battery.timeout for battery in self.batteries if battery.timeout is not None]
        return CycleState(
            time=now,
            site_power=self._site_power(),
            soe_kwh=_sum([state.soe_kwh for state in states]),
            battery_power=self._battery_power(now, states),
            last_command=self._last_command(now),
            command_timeout=min(timeouts, default=None),
            capability=_together([state.capability for state in states]),
            memory=self._memory,
            stop=self._stop,
        )

    def _update_stop(self, now: datetime) -> None:
        reason = self._halt()
        if reason is None:
            if self._stop is not None:
                _logger.info("control goes on", after=self._stop.reason)
                for battery in self.batteries:
                    battery.driver.forget()
            self._stop = None
        elif self._stop is None:
            self._stop = Stop(reason, now)
        elif self._stop.reason != reason:
            self._stop = replace(self._stop, reason=reason)

    def _site_power(self) -> Measurement | None:
        poll = self._newest.get(self._site_meter.device.name)
        power_kw = None if poll is None else self._site_meter.measured_power_kw(poll)
        return None if poll is None or power_kw is None else Measurement(power_kw, poll.oldest)

    def _battery_power(self, now: datetime, states: list[BatteryState]) -> Measurement | None:
        """Of all batteries together; one that nothing measures counts with its command, if another is measured."""
        measured = [state.power for state in states if state.power is not None]
        if not measured:
            return None
        unmeasured_kw = sum(
            battery.commanded_kw(now)
            for battery, state in zip(self.batteries, states, strict=True)
            if state.power is None
        )
        return Measurement(sum(m.value for m in measured) + unmeasured_kw, min(m.time for m in measured))

    def _last_command(self, now: datetime) -> AcknowledgedCommand | None:
        commands = [battery.last_command for battery in self.batteries]
        if len(commands) == 1 or not any(commands):
            return commands[0]
        times = [_EPOCH if command is None else command.time for command in commands]
        return AcknowledgedCommand(sum(battery.commanded_kw(now) for battery in self.batteries), min(times))

    def _note(self, decision: Decision) -> None:
        """One line when what is done, or why, has changed; each cycle only for who debugs."""
        before = self.last
        changed = before is None or _gist(before) != _gist(decision)
        log = _logger.info if changed else _logger.debug
        log(
            "decision",
            target_kw=decision.target_power_kw,
            effective=decision.effective,
            active=decision.active,
            limits=[limit.value for limit in decision.limits],
            site_at_rest_kw=decision.site_at_rest_kw,
            reason=decision.reason,
        )
        for event in decision.events:
            if before is None or event not in before.events:
                _logger.warning("control event", text=event)


def _gist(decision: Decision) -> tuple[object, ...]:
    """What makes a decision another one than the last: not its figures."""
    return decision.target_power_kw is None, decision.effective, decision.active, decision.limits, decision.events


def _sum(measurements: list[Measurement | None]) -> Measurement | None:
    """The sum, as old as its oldest part; None when a part is missing."""
    present = [m for m in measurements if m is not None]
    if len(present) < len(measurements):
        return None
    return Measurement(sum(m.value for m in present), min(m.time for m in present))


def _together(capabilities: list[BatteryCapability]) -> BatteryCapability:
    if len(capabilities) == 1:
        return capabilities[0]
    return BatteryCapability(
        charge_limit_kw=_sum_if_all([c.charge_limit_kw for c in capabilities]),
        discharge_limit_kw=_sum_if_all([c.discharge_limit_kw for c in capabilities]),
        available_blocks=_blocks([c.available_blocks for c in capabilities]),
        blocks_total=_blocks([c.blocks_total for c in capabilities]),
    )


def _sum_if_all(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None


def _blocks(values: list[int | None]) -> int | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None


class ControlLoop:
    """Runs a :class:`SiteController` at its plan's interval."""

    def __init__(
        self, controller: SiteController, newest: NewestPolls, *, clock: Clock, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._controller = controller
        self._newest = newest
        self._clock = clock
        self._interval = controller.plan.interval
        self._ticks = Ticks({"control": self._interval}, clock, sleep)

    async def run(self) -> None:
        """Control for ever. An exception ends it: no command goes out, and the supervisor starts it again."""
        while True:
            tick = await self._ticks.next()
            timeout_s = self._interval.total_seconds() * _POLLS_SHARE
            await self._newest.wait_until_asked(self._controller.needed, tick.times["control"], timeout_s)
            await self._controller.cycle(self._clock())
