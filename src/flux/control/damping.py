"""Anti-hunting: while the site's power keeps flipping round zero, each cycle goes only a part of the way. Pure.

A meter that lags tells of the battery's last move too late, so that the next decision makes it again: the site swings
from +40 to −40 kW and on. With a smaller part of the way per cycle the same loop settles. What `decide` answers stays
what it is; this is between the decision and the command. A load that flips by itself is followed all the way: flips
count only while the site's power is the echo of the battery's own moves (`echo`).
"""

from dataclasses import dataclass, field, replace

from flux.control.decision import Decision
from flux.control.echo import Echo, listen
from flux.control.limits import apply_limits, grid_range, inverter_range
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState

DEAD_KW = 0.5
"""A step of less than this is no flip: rounding and noise of a good meter."""
_FLIPS_TO_BEGIN = 3
_LONGEST_HALF_SWING = 30
_SMALLEST_GAIN = 1 / 32
_SMALLEST_GAINS = {1: 1 / 4, 2: 1 / 8, 3: 1 / 8, 4: 1 / 16, 5: 1 / 16}
"""By the cycles that a meter lags: what settles soonest without swinging is about 1 / (e × (lag + 1))."""
_QUIET_BEFORE_A_JUMP = 3
_QUIET_CYCLES = 900
_ONE_SIDED_CYCLES = 60
_SEEN_KW = 0.3
_ECHO = 0.6
_LAGGING_BATTERY_METER = -0.75
_NO_ECHO = 0.25
_CYCLES_WITHOUT_ECHO = 5
_HOURS = 3600.0


@dataclass(frozen=True, slots=True)
class Damping:
    """What is remembered between cycles. ``gain`` in (0, 1] is the part of the way to the target that is gone.

    ``side``: the direction of the last step beyond the dead band; ``cycles`` since it last turned; ``flips`` in a row,
    each soon after the one before; ``quiet``: cycles within the dead band; ``hunted``: it has been seen to hunt.
    ``jump_kw``: the last step, while the loop answers a jump of the load as one without lag does; else 0.
    ``position_kw``: what was asked last, before a register rounded it; None: nothing was. A small part of the way is
    less than a coarse register can say, and would be lost each time if it counted from what the register holds.
    ``silent``: cycles in a row in which no echo was heard.
    """

    gain: float = 1.0
    side: int = 0
    cycles: int = 0
    quiet: int = 0
    flips: int = 0
    hunted: bool = False
    jump_kw: float = 0.0
    position_kw: float | None = None
    echo: Echo = field(default_factory=Echo)
    silent: int = 0


def next_damping(before: Damping, step_kw: float, heard: tuple[int, float] | None = (0, 1.0)) -> Damping:
    """After a cycle that would move the battery by ``step_kw``; ``heard`` as in :attr:`Echo.heard`."""
    lag, echo = heard or (0, None)
    now = _without_echo(replace(before, cycles=before.cycles + 1), echo)
    if abs(step_kw) < DEAD_KW:
        return _after_quiet(replace(now, quiet=now.quiet + 1, jump_kw=0.0))
    side = 1 if step_kw > 0 else -1
    now = _answered(replace(now, side=side, quiet=0), before, step_kw)
    if side == before.side or before.side == 0:
        return _on_one_side(now)
    if echo is None or _LAGGING_BATTERY_METER < echo < _ECHO:  # the load flips by itself
        return replace(now, cycles=0, flips=0)
    soon = now.cycles <= _LONGEST_HALF_SWING
    now = replace(now, cycles=0, flips=before.flips + 1 if soon else 1)
    if not soon or now.flips < (1 if before.hunted else _FLIPS_TO_BEGIN):
        return now
    return replace(
        now, gain=min(now.gain, max(now.gain / 2, _SMALLEST_GAINS.get(lag, _SMALLEST_GAIN))), hunted=True, jump_kw=0.0
    )


def _without_echo(now: Damping, echo: float | None) -> Damping:
    """The load alone moves the site: back towards the whole of each step, whatever else goes on."""
    if echo is None or abs(echo) >= _NO_ECHO:
        return replace(now, silent=0) if now.silent else now
    if now.silent + 1 < _CYCLES_WITHOUT_ECHO or now.gain == 1:
        return replace(now, silent=now.silent + 1)
    gain = min(1.0, now.gain * 2)
    return replace(now, gain=gain, silent=0, flips=0, hunted=gain < 1)


def _answered(now: Damping, before: Damping, step_kw: float) -> Damping:
    """A jump out of quiet that shrinks at once by the part that was gone: the meter does not lag (any more)."""
    if before.quiet >= _QUIET_BEFORE_A_JUMP:
        return replace(now, jump_kw=step_kw)
    expected_kw = before.gain * abs(before.jump_kw)
    shrunk_kw = abs(before.jump_kw) - abs(step_kw)
    if before.jump_kw * step_kw <= 0 or expected_kw < _SEEN_KW or not 0.5 < shrunk_kw / expected_kw < 1.5:
        return replace(now, jump_kw=0.0)
    gain = min(1.0, now.gain * 2)
    return replace(now, jump_kw=step_kw, gain=gain, flips=0, hunted=now.hunted and gain < 1)


def _on_one_side(now: Damping) -> Damping:
    """Longer on one side than any swing takes: a change of the load, to be followed sooner."""
    if now.gain < 1 and now.cycles > _ONE_SIDED_CYCLES:
        return replace(now, gain=min(1.0, now.gain * 2), flips=0, cycles=_ONE_SIDED_CYCLES // 2)
    return now


def _after_quiet(now: Damping) -> Damping:
    """Settled for long: one step on the way back, with an eye on the first flip."""
    if now.quiet < _QUIET_CYCLES:
        return now
    return replace(now, gain=min(1.0, now.gain * 2), quiet=_QUIET_BEFORE_A_JUMP, flips=0, hunted=now.gain < 1)


def damped(
    plan: ControllerPlan,
    state: CycleState,
    decision: Decision,
    last_kw: float,
    before: Damping,
    rounding_kw: float = 0.0,
) -> tuple[float, Damping]:
    """The power to send for a decision, and what to remember; ``last_kw`` is what the battery was told last.

    Only a battery that follows the load is damped, and never beyond a limit. The decision must have a target.
    ``rounding_kw``: by how much the registers may have rounded what was asked for, all batteries together.
    """
    target_kw, rest_kw = decision.target_power_kw, decision.site_at_rest_kw
    if target_kw is None:
        raise ValueError("a decision without a target is not sent")
    if rest_kw is None or state.soe_kwh is None or not _follows_the_load(decision, rest_kw):
        calm = replace(before, side=0, cycles=0, flips=0, quiet=0, jump_kw=0.0, position_kw=None, echo=Echo())
        return target_kw, calm
    start_kw = last_kw
    if before.position_kw is not None and abs(before.position_kw - last_kw) <= rounding_kw:
        start_kw = before.position_kw
    step = plan.interval if state.step is None else state.step
    battery_kw = last_kw if state.site_power is None else rest_kw - state.site_power.value
    echo = listen(before.echo, state.time, step, rest_kw, battery_kw)
    after = replace(next_damping(before, target_kw - start_kw, echo.heard), echo=echo)
    if after.gain == 1:
        return target_kw, replace(after, position_kw=target_kw)
    inverter = inverter_range(plan.battery, state.capability)
    grid = grid_range(rest_kw, plan.site, state.limits)
    step_h = step.total_seconds() / _HOURS
    wanted_kw = start_kw + after.gain * (target_kw - start_kw)
    power_kw = apply_limits(wanted_kw, inverter, grid, state.soe_kwh.value, plan.battery, step_h).power_kw
    return power_kw, replace(after, position_kw=power_kw)


def _follows_the_load(decision: Decision, rest_kw: float) -> bool:
    """Whether what was asked for is the site's demand itself, cut by limits or not."""
    return any(
        one.mode == decision.effective and one.target_kw == rest_kw and not one.refused for one in decision.proposals
    )
