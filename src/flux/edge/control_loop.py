"""The control loop: freezes what was measured, decides, and tells the batteries.

``SiteController.cycle`` is the whole of one cycle; the live loop calls it at the plan's interval, and fast time
(`fast`) calls the same at simulated instants.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from flux.control.damping import Damping, damped
from flux.control.decide import BY_HAND, decide
from flux.control.decision import Decision, Limit, withhold
from flux.control.feed import Outside
from flux.control.ledger import BatteryCommand, is_stale
from flux.control.limits import allowed_range, grid_range, inverter_range
from flux.control.plan import ControllerPlan
from flux.control.state import AcknowledgedCommand, CycleState, Measurement, Memory, SetPoint, Stop
from flux.devices.rounding import Range
from flux.edge.controlled import DEAD_BAND_KW, BatteryState, ControlledBattery, MeteredDevice, Tell
from flux.edge.decisions import Observer, observe_nothing
from flux.edge.newest import NewestPolls
from flux.edge.sharing import Needed, Sharing, send_all
from flux.edge.ticks import Clock, Sleep, Ticks

_logger = structlog.get_logger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_COMMAND_S = 5.0
_POLLS_SHARE = 0.5
"""The part of an interval that a cycle waits for the polls of its own tick; then it decides on what there is."""


class SiteController:
    """Controls the batteries of one plan.

    ``halt`` says why control is to rest now (0 kW is sent), ``withheld`` why nothing at all may be sent; None: go on.
    ``outside``: what is known of market, dispatch and envelopes at an instant; ``by_hand``: the set-point in force.
    """

    def __init__(
        self,
        plan: ControllerPlan,
        batteries: list[ControlledBattery],
        site_meter: MeteredDevice,
        newest: NewestPolls,
        *,
        clock: Clock,
        halt: Callable[[], str | None] = lambda: None,
        withheld: Callable[[], str | None] = lambda: None,
        tell: Tell = lambda _key, _text: None,
        observe: Observer = observe_nothing,
        outside: Callable[[datetime], Outside] = lambda _now: Outside(),
        by_hand: Callable[[datetime], SetPoint | None] = lambda _now: None,
        quiet: bool = False,
    ) -> None:
        self.plan = plan
        self.batteries = batteries
        self._site_meter = site_meter
        self._newest = newest
        self._clock = clock
        self._halt = halt
        self._withheld = withheld
        self._tell = tell
        self._observe = observe
        self._outside = outside
        self._by_hand = by_hand
        self._sharing = Sharing(plan, [battery.capacity_kwh for battery in batteries])
        self._one_at_a_time = asyncio.Lock()
        self._quiet = quiet
        self._memory = Memory()
        self._stop: Stop | None = None
        self._within_s = min(plan.interval.total_seconds(), _LONGEST_COMMAND_S)
        self.damping = Damping()
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
        self._memory = _carried(other._memory, other.plan, self.plan)
        self.last, self._stop, self.damping = other.last, other._stop, other.damping
        self.cycles, self.failed_commands = other.cycles, other.failed_commands
        before = {battery.driver.device.id: battery for battery in other.batteries}
        for battery in self.batteries:
            if (known := before.get(battery.driver.device.id)) is not None:
                battery.take_over(known)

    @asynccontextmanager
    async def between_cycles(self) -> AsyncIterator[None]:
        """No cycle runs within the block; one that runs already is finished first."""
        async with self._one_at_a_time:
            yield

    async def rest(self, names: Collection[str]) -> bool:
        """Send 0 kW to the batteries called ``names``, between two cycles; True once they have acknowledged it."""
        leaving = [battery for battery in self._own if battery.name in names]
        if self.withheld is not None:
            return True
        zeros = [0.0] * len(leaving)
        sending = await send_all(leaving, zeros, None, self._within_s, lambda _battery, _power_kw, _inside: True)
        return sending.acknowledged

    async def cycle(self, now: datetime) -> Decision:
        """Freeze, decide, command. Commands that fail change nothing that the next cycle believes."""
        async with self._one_at_a_time:
            return await self._cycle(now)

    async def _cycle(self, now: datetime) -> Decision:
        states = [battery.state() for battery in self.batteries]
        for battery, said in zip(self.batteries, states, strict=True):
            battery.look(said, now)
        frozen, withheld = self._cycle_state(now, states), self.withheld
        decision = decide(self.plan, frozen)
        if withheld is not None:  # a second master at the battery is worse than none
            decision = withhold(decision, withheld)
        if not self._quiet:
            self._note(decision)
        self._memory = decision.memory
        self.last = decision
        self.cycles += 1
        self._tell("stale", decision.reason if withheld is None and is_stale(decision, frozen) else None)
        powers_kw: Sequence[float | None] = [None] * len(self.batteries)
        told: frozenset[str] = frozenset()
        try:
            if decision.target_power_kw is not None:
                powers_kw = parts = self._split(states, frozen, decision, self._damped(frozen, decision, now))
                ranges = self._ranges(frozen, decision, states, parts)
                needed, source = self._needed_at(now), decision.command_source
                sending = await send_all(self.batteries, parts, source, self._within_s, needed, ranges)
                told = sending.told
                self.failed_commands += not sending.acknowledged
        finally:
            became = [
                self._became(battery, power, told) for battery, power in zip(self.batteries, powers_kw, strict=True)
            ]
            self._observe(frozen, decision, withheld, became)
        return decision

    def _split(
        self, states: list[BatteryState], state: CycleState, decision: Decision, power_kw: float
    ) -> tuple[float, ...]:
        """Each battery's part; a set-point by hand is for one of them."""
        if decision.effective != BY_HAND or state.set_point is None:
            return self._sharing.split(states, power_kw)
        number = self.plan.bess.index(state.set_point.battery)
        others_help = not {Limit.SITE_IMPORT, Limit.SITE_EXPORT}.isdisjoint(decision.limits)
        return self._sharing.for_one(states, number, power_kw, others_help=others_help)

    def _became(self, battery: ControlledBattery, asked_kw: float | None, told: Collection[str]) -> BatteryCommand:
        """What became of the decision at one battery."""
        now = self._clock()
        holds = battery.in_force(now)
        return BatteryCommand(
            battery=battery.name,
            asked_kw=asked_kw if battery.other_master is None else None,
            written=battery.name in told,
            acknowledged_kw=None if holds is None else holds.power_kw,
            acknowledged_at=None if holds is None else holds.time,
            register_writes_today=battery.writes.today(now),
        )

    def _damped(self, state: CycleState, decision: Decision, now: datetime) -> float:
        """What is sent of the target: the whole of it unless the loop hunts."""
        last_kw = sum(battery.commanded_kw(now) for battery in self._own)
        before = self.damping
        rounding_kw = sum(battery.driver.power_step_kw + DEAD_BAND_KW for battery in self._own)
        power_kw, self.damping = damped(self.plan, state, decision, last_kw, before, rounding_kw)
        if (before.gain < 1) is not (self.damping.gain < 1):
            self._tell(
                "hunting",
                f"the site's power keeps flipping round 0 kW (a meter that lags?); {self.damping.gain:.0%} of each step"
                " is taken while it does"
                if self.damping.gain < 1
                else None,
            )
        return power_kw

    @property
    def withheld(self) -> str | None:
        """Why nothing is sent at all."""
        others = [f"{b.name} is commanded by somebody else: {b.other_master}" for b in self.batteries if b.other_master]
        waiting = "; ".join(battery.waits for battery in self.batteries if battery.waits is not None)
        return self._withheld() or waiting or ("; ".join(others) if len(others) == len(self.batteries) else None)

    @property
    def stop_acknowledged(self) -> bool:
        """Whether control rests and every battery of the plan has acknowledged 0 kW since."""
        return self._withheld() is None and len(self._own) == len(self.batteries) and self._own_at_rest

    @property
    def _own_at_rest(self) -> bool:
        stop = self._stop
        return stop is not None and all(battery.rests_since(stop.since) for battery in self._own)

    @property
    def _own(self) -> list[ControlledBattery]:
        """The batteries that nobody else commands."""
        return [battery for battery in self.batteries if battery.other_master is None]

    def _ranges(
        self, state: CycleState, decision: Decision, states: list[BatteryState], powers_kw: Sequence[float]
    ) -> Sequence[Range | None] | None:
        """What each battery's register may round its power to; None where no limit was asked, as for a stop."""
        if decision.site_at_rest_kw is None or state.soe_kwh is None:
            return None
        plan = self.plan
        low_kw, high_kw = allowed_range(
            inverter_range(plan.battery, state.capability),
            grid_range(decision.site_at_rest_kw, plan.site, state.limits),
            state.soe_kwh.value,
            plan.battery,
            plan.compiled.step_h,
        )
        return self._sharing.ranges(states, powers_kw, low_kw, high_kw)

    def _needed_at(self, now: datetime) -> Needed:
        if (stop := self._stop) is not None:  # what is asked for is an acknowledgement, so news or not it is sent, once
            return lambda battery, _power_kw, _inside: not battery.rests_since(stop.since)
        return lambda battery, power_kw, inside: battery.needs(power_kw, now, inside)

    async def shut_down(self, reason: str) -> bool:
        """Send 0 kW; True once every battery has acknowledged it, or nothing may be sent.

        Where control rests already, a battery that acknowledged it then (one in maintenance) is told nothing more.
        """
        self._stop = self._stop or Stop(reason, self._clock())
        self._halt = lambda: reason
        await self.cycle(self._clock())
        return self.withheld is not None or self._own_at_rest

    def _cycle_state(self, now: datetime, states: list[BatteryState]) -> CycleState:
        self._update_stop(now)
        timeouts = [battery.timeout for battery in self.batteries if battery.timeout is not None]
        market, schedule, limits = self._outside(now)
        return CycleState(
            time=now,
            site_power=self._site_power(),
            soe_kwh=_sum([state.soe_kwh for state in states]),
            battery_power=self._battery_power(now, states),
            last_command=self._last_command(now),
            command_timeout=min(timeouts, default=None),
            market=market,
            schedule=schedule,
            limits=limits,
            capability=self._sharing.capability(states),
            memory=self._memory,
            stop=self._stop,
            set_point=self._set_point(now),
        )

    def _set_point(self, now: datetime) -> SetPoint | None:
        """The one in force, if it is for a battery of this plan."""
        given = self._by_hand(now)
        return given if given is not None and given.battery in self.plan.bess else None

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
            battery.counted_kw(now)
            for battery, state in zip(self.batteries, states, strict=True)
            if state.power is None
        )
        return Measurement(sum(m.value for m in measured) + unmeasured_kw, min(m.time for m in measured))

    def _last_command(self, now: datetime) -> AcknowledgedCommand | None:
        """Of those that may be commanded; what another master makes of the others is measured or unknown.

        While control rests it is what was acknowledged; else one that does not follow counts as 0 kW, or the controller
        would wind up against it.
        """
        commands = [battery.last_command for battery in self._own]
        followed = self._stop is not None or all(battery.follows for battery in self._own)
        if not any(commands) or (followed and len(commands) == 1):
            return commands[0] if commands else None
        times = [_EPOCH if command is None else command.time for command in commands]
        counted = [b.commanded_kw(now) if self._stop is not None else b.counted_kw(now) for b in self._own]
        return AcknowledgedCommand(sum(counted), min(times))

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


def _carried(memory: Memory, before: ControllerPlan, after: ControllerPlan) -> Memory:
    """What had begun under one plan, for another: it goes on in the entry that is the same in both."""
    if before is after:
        return memory
    begun = []
    for one in memory.full_discharges:
        entry = _same_entry(one.entry, before, after)
        begun += [] if entry is None else [replace(one, entry=entry)]
    return Memory(tuple(begun))


def _same_entry(number: int, before: ControllerPlan, after: ControllerPlan) -> int | None:
    """Where the entry ``number`` of one plan stands in another: the one equal to it, of several the one of its rank.

    One that was edited is found again while it is the only one of its mode in both plans.
    """
    mode = before.modes[number]
    equal = [at for at, other in enumerate(after.modes) if other == mode]
    if equal:
        return equal[min(before.modes[:number].count(mode), len(equal) - 1)]
    alike = [at for at, other in enumerate(after.modes) if other.mode == mode.mode]
    alone = len(alike) == 1 and [other.mode for other in before.modes].count(mode.mode) == 1
    return alike[0] if alone else None


def _sum(measurements: list[Measurement | None]) -> Measurement | None:
    """The sum, as old as its oldest part; None when a part is missing."""
    present = [m for m in measurements if m is not None]
    if len(present) < len(measurements):
        return None
    return Measurement(sum(m.value for m in present), min(m.time for m in present))


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
