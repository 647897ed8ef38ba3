"""Anti-hunting: while the site's power keeps flipping round zero, each cycle goes only a part of the way. Pure.

A meter that lags tells of the battery's last move too late, so that the next decision makes it again: the site swings
from +40 to −40 kW and on. With a smaller part of the way per cycle the same loop settles. What `decide` answers stays
what it is; this is between the decision and the command.
"""

from dataclasses import dataclass, replace

from flux.control.decision import Decision
from flux.control.limits import apply_limits, grid_range, inverter_range
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState

DEAD_KW = 0.5
"""A step of less than this is no flip: rounding and noise of a good meter."""
_FLIPS_TO_BEGIN = 3
_LONGEST_HALF_SWING = 30
_SMALLEST_GAIN = 1 / 32
_QUIET_BEFORE_A_JUMP = 3
_QUIET_CYCLES = 900
_ONE_SIDED_CYCLES = 60
_SEEN_KW = 0.3
_HOURS = 3600.0


@dataclass(frozen=True, slots=True)
class Damping:
    """What is remembered between cycles. ``gain`` in (0, 1] is the part of the way to the target that is gone.

    ``side``: the direction of the last step beyond the dead band; ``cycles`` since it last turned; ``flips`` in a row,
    each soon after the one before; ``quiet``: cycles within the dead band; ``hunted``: it has been seen to hunt.
    ``jump_kw``: the last step, while the loop answers a jump of the load as one without lag does; else 0.
    """

    gain: float = 1.0
    side: int = 0
    cycles: int = 0
    quiet: int = 0
    flips: int = 0
    hunted: bool = False
    jump_kw: float = 0.0


def next_damping(before: Damping, step_kw: float) -> Damping:
    """After a cycle that would move the battery by ``step_kw``."""
    now = replace(before, cycles=before.cycles + 1)
    if abs(step_kw) < DEAD_KW:
        return _after_quiet(replace(now, quiet=now.quiet + 1, jump_kw=0.0))
    side = 1 if step_kw > 0 else -1
    now = _answered(replace(now, side=side, quiet=0), before, step_kw)
    if side == before.side or before.side == 0:
        return _on_one_side(now)
    soon = now.cycles <= _LONGEST_HALF_SWING
    now = replace(now, cycles=0, flips=before.flips + 1 if soon else 1)
    if not soon or now.flips < (1 if before.hunted else _FLIPS_TO_BEGIN):
        return now
    return replace(now, gain=max(before.gain / 2, _SMALLEST_GAIN), hunted=True, jump_kw=0.0)


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
    plan: ControllerPlan, state: CycleState, decision: Decision, last_kw: float, before: Damping
) -> tuple[float, Damping]:
    """The power to send for a decision, and what to remember; ``last_kw`` is what the battery was told last.

    Only a battery that follows the load is damped, and never beyond a limit. The decision must have a target.
    """
    target_kw, rest_kw = decision.target_power_kw, decision.site_at_rest_kw
    if target_kw is None:
        raise ValueError("a decision without a target is not sent")
    if rest_kw is None or state.soe_kwh is None or not _follows_the_load(decision, rest_kw):
        return target_kw, replace(before, side=0, cycles=0, flips=0, quiet=0, jump_kw=0.0)
    after = next_damping(before, target_kw - last_kw)
    if after.gain == 1:
        return target_kw, after
    inverter = inverter_range(plan.battery, state.capability)
    grid = grid_range(rest_kw, plan.site, state.limits)
    step_h = (plan.interval if state.step is None else state.step).total_seconds() / _HOURS
    wanted_kw = last_kw + after.gain * (target_kw - last_kw)
    return apply_limits(wanted_kw, inverter, grid, state.soe_kwh.value, plan.battery, step_h).power_kw, after


def _follows_the_load(decision: Decision, rest_kw: float) -> bool:
    """Whether what was asked for is the site's demand itself, cut by limits or not."""
    return any(
        one.mode == decision.effective and one.target_kw == rest_kw and not one.refused for one in decision.proposals
    )
