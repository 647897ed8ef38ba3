"""The controller's one function: a plan and a frozen state in, a decision out.

Pure: no clock, no I/O, no logging, no randomness; live, replay and backtest call the same. What was begun in earlier
cycles comes in with ``state.memory`` and goes out with the decision.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flux.control.arbiter import Arbiter
from flux.control.compiled import CompiledPlan, Entry
from flux.control.cycle import HOUR, Cycle
from flux.control.decision import Decision, Limit
from flux.control.limits import (
    GridRange,
    InverterRange,
    Limited,
    apply_limits,
    full_discharge_kw,
    grid_range,
    inverter_range,
)
from flux.control.parts import BatteryConfig
from flux.control.plan import ControllerPlan
from flux.control.shapes import Notice, Offer, in_words, take_over
from flux.control.state import CycleState, FullDischarge, Measurement, Memory, Stop
from flux.model import CommandSource, period_start

BY_HAND = "set_point"
"""What a set-point by hand is called among the modes."""
_BY_HAND = Entry(-1, BY_HAND, CommandSource.MANUAL, lambda _cycle: None)


def decide(plan: ControllerPlan, state: CycleState) -> Decision:
    """What the battery is to do now; equal arguments give equal decisions."""
    if state.stop is not None:
        return _stopped(state, state.stop)
    now = state.time.astimezone(UTC)
    compiled = plan.compiled
    site = _fresh(state.site_power, now, compiled.max_reading_age)
    soe = _fresh(state.soe_kwh, now, compiled.max_reading_age)
    rest_kw = None if site is None else site.value + _battery_power(state, now, site, compiled)
    if site is None or soe is None or rest_kw is None or not math.isfinite(rest_kw):
        return _stale(plan, state, now, compiled)
    return _decide_fresh(plan, state, compiled, now, rest_kw, soe.value)


def _decide_fresh(
    plan: ControllerPlan, state: CycleState, compiled: CompiledPlan, now: datetime, rest_kw: float, soe_kwh: float
) -> Decision:
    inverter = inverter_range(plan.battery, state.capability)
    grid = grid_range(rest_kw, plan.site, state.limits)
    sp_start = period_start(now)
    cycle = Cycle(
        time=now,
        soe_kwh=soe_kwh,
        rest_kw=rest_kw,
        full_discharge_kw=full_discharge_kw(inverter, grid),
        sp_start=sp_start,
        sp_elapsed=now - sp_start,
        market=state.market,
        schedule=state.schedule,
        memory=state.memory,
    )
    arbiter, notices, memory = _ask_modes(compiled.entries, cycle, _by_hand(plan, state, now))
    step_h = compiled.step_h if state.step is None else state.step / HOUR
    limited = apply_limits(arbiter.outcome(), inverter, grid, soe_kwh, plan.battery, step_h)
    events = tuple(notices) if grid.invalid is None else (*notices, grid.invalid)
    winner = arbiter.winner
    return Decision(
        time=now,
        target_power_kw=limited.power_kw,
        command_source=None if winner is None else winner.source,
        active=tuple(record.mode for record in arbiter.records),
        effective=None if winner is None else winner.name,
        limits=limited.limits,
        proposals=tuple(arbiter.records),
        reason=_explain(arbiter, limited, _Bounds(inverter, grid, plan.battery), events),
        memory=memory,
        events=events,
        site_at_rest_kw=rest_kw,
    )


def _by_hand(plan: ControllerPlan, state: CycleState, now: datetime) -> Offer | None:
    """The set-point that somebody gave, as an offer above all modes; None: there is none, or it is over."""
    given = state.set_point
    if given is None or now >= given.until or not math.isfinite(given.power_kw):
        return None
    until = f"{given.until.astimezone(plan.zone):%H:%M:%S}"
    return take_over(given.power_kw, f"set-point by {given.actor} until {until}, {in_words(given.power_kw)}")


def _ask_modes(entries: tuple[Entry, ...], cycle: Cycle, by_hand: Offer | None) -> tuple[Arbiter, list[str], Memory]:
    arbiter, notices = Arbiter(), []
    if by_hand is not None:
        arbiter.hear(_BY_HAND, by_hand)
    kept: list[FullDischarge] = []
    for entry in entries:
        answer = entry.propose(cycle)
        if answer is None:
            continue
        if isinstance(answer, Notice):
            notices.append(f"{entry.name}: {answer.reason}")
        elif not arbiter.hear(entry, answer) and answer.begins is not None:
            # a higher mode has the battery for now: nothing begins, but what had begun before goes on afterwards
            before = cycle.memory.full_discharge(entry.number, answer.begins.period_start)
            kept += [before] if before is not None else []
    return arbiter, notices, Memory((*kept, *arbiter.begun))


def _fresh(measurement: Measurement | None, now: datetime, max_age: timedelta) -> Measurement | None:
    """The measurement, if it is a number and neither too old nor too far ahead of ``now``."""
    if measurement is None or not math.isfinite(measurement.value):
        return None
    if measurement.time is not now and abs(now - measurement.time) > max_age:
        return None
    return measurement


def _battery_power(state: CycleState, now: datetime, site: Measurement, compiled: CompiledPlan) -> float:
    """Battery power to go with the site's: measured within one interval of it, else the last acknowledged command."""
    measured = _fresh(state.battery_power, now, compiled.max_reading_age)
    if measured is not None and (measured.time is site.time or abs(measured.time - site.time) <= compiled.interval):
        return measured.value
    command = state.last_command
    if command is None or not math.isfinite(command.power_kw):
        return 0.0
    if state.command_timeout is not None and now - command.time > state.command_timeout:
        return 0.0
    return command.power_kw


def _stopped(state: CycleState, stop: Stop) -> Decision:
    """0 kW until the battery has acknowledged it, then nothing, whatever the modes and the grid say."""
    last = state.last_command
    done = last is not None and last.power_kw == 0 and last.time >= stop.since
    outcome = "0 kW was acknowledged, nothing more is sent" if done else "sending 0 kW"
    return _without_modes(state, None if done else 0.0, f"{stop.reason}: {outcome}")


def _stale(plan: ControllerPlan, state: CycleState, now: datetime, compiled: CompiledPlan) -> Decision:
    readings = (("site power", state.site_power), ("SoE", state.soe_kwh))
    wrong = [_what_is_wrong(name, reading, now, compiled.max_reading_age) for name, reading in readings]
    what = ", ".join(words for words in wrong if words) or "the powers of site and battery add up to no number"
    if plan.without_timeout is not None:
        return _without_modes(state, 0.0, f"stale: {what}; the battery has no command timeout, so 0 kW is sent")
    return _without_modes(state, None, f"stale: {what}; nothing is sent, the battery's own timeout takes over")


def _what_is_wrong(name: str, reading: Measurement | None, now: datetime, max_age: timedelta) -> str | None:
    if reading is None or not math.isfinite(reading.value):
        return f"no {name}"
    age_s = (now - reading.time).total_seconds()
    if abs(age_s) <= max_age.total_seconds():
        return None
    limit = f"{max_age.total_seconds():g} s allowed"
    return f"{name} is {age_s:.1f} s old, {limit}" if age_s > 0 else f"{name} is {-age_s:.1f} s ahead of now, {limit}"


def _without_modes(state: CycleState, target_kw: float | None, reason: str) -> Decision:
    return Decision(
        time=state.time.astimezone(UTC),
        target_power_kw=target_kw,
        command_source=None,
        active=(),
        effective=None,
        limits=(),
        proposals=(),
        reason=reason,
        memory=state.memory,
    )


class _Bounds(NamedTuple):
    """Where the limits of this cycle come from, for the words about them."""

    inverter: InverterRange
    grid: GridRange
    battery: BatteryConfig

    def in_words(self, limit: Limit) -> str:
        """``site import limit 220.0 kW``: a limit with its figure."""
        match limit:
            case Limit.INVERTER:
                return f"inverter limits {self.inverter.low_kw + 0.0:.1f} to {self.inverter.high_kw:.1f} kW"
            case Limit.SITE_IMPORT:
                return f"site import limit {self.grid.import_kw:.1f} kW"
            case Limit.SITE_EXPORT:
                return f"site export limit {self.grid.export_kw:.1f} kW"
            case Limit.SOE_MIN:
                return f"lowest SoE {self.battery.soe_min_kwh:g} kWh"
            case Limit.SOE_MAX:
                return f"highest SoE {self.battery.soe_max_kwh:g} kWh"


def _explain(arbiter: Arbiter, limited: Limited, bounds: _Bounds, events: tuple[str, ...]) -> str:
    """``discharging 42.0 kW: import avoidance, site would draw 42.0 kW; …``"""
    head = "idle" if limited.power_kw == 0 and arbiter.winner is None else in_words(limited.power_kw)
    asked = arbiter.outcome()
    parts = [arbiter.winning_reason if arbiter.winner else _why_idle(arbiter, asked)]
    if limited.power_kw != asked:
        words = [bounds.in_words(limit) for limit in limited.limits if limit is not limited.missed]
        parts.append(f"{in_words(asked)} was asked for, changed by {' and '.join(words)}")
    if limited.missed is not None:
        parts.append(f"{bounds.in_words(limited.missed)} is missed, since SoE outranks it")
    parts += [f"{record.mode} refused" for record in arbiter.records if record.refused]
    return f"{head}: {'; '.join([*parts, *events])}"


def _why_idle(arbiter: Arbiter, asked: float) -> str:
    if not arbiter.records:
        return "no mode asks for anything"
    reasons = "; ".join(record.reason for record in arbiter.records)
    return f"no mode has a target, {reasons}" if asked == 0 else reasons
