"""Several batteries as one: what they can do together, and what each gets of the target."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flux.control.plan import ControllerPlan
from flux.control.split import SplitPart, most_together, split
from flux.control.state import BatteryCapability
from flux.devices.rounding import Range
from flux.edge.controlled import BatteryState, ControlledBattery
from flux.model import CommandSource

_SECONDS_PER_HOUR = 3600.0

Needed = Callable[[ControlledBattery, float, Range | None], bool]
"""Whether a battery has to be told its power, rounded within that range."""


class Sharing:
    """Splits by available power, SoE and efficiency; the plan's figures are for all batteries together."""

    def __init__(self, plan: ControllerPlan, capacities_kwh: Sequence[float]) -> None:
        self._battery = plan.battery
        self._step_h = plan.interval.total_seconds() / _SECONDS_PER_HOUR
        total = sum(capacities_kwh)
        self._shares = [capacity / total for capacity in capacities_kwh]

    def capability(self, states: Sequence[BatteryState]) -> BatteryCapability:
        """What all can do now; one that is full or empty adds nothing to it."""
        if len(states) == 1:
            return states[0].capability
        charge_kw, discharge_kw = most_together(self._parts(states), self._step_h)
        return BatteryCapability(charge_kw, discharge_kw)

    def split(self, states: Sequence[BatteryState], power_kw: float) -> tuple[float, ...]:
        """Each battery's part of ``power_kw``, in the order of ``states``."""
        return (power_kw,) if len(states) == 1 else split(power_kw, self._parts(states), self._step_h)

    def for_one(
        self, states: Sequence[BatteryState], number: int, power_kw: float, *, others_help: bool
    ) -> tuple[float, ...]:
        """``power_kw`` for the battery ``number`` as far as it can, while the others rest.

        ``others_help``: what it can't carry goes to them after all, as where the grid connection needs it.
        """
        if len(states) == 1:
            return (power_kw,)
        parts = self._parts(states)
        own = parts[number]
        own_kw = min(max(power_kw, -own.most_charge_kw(self._step_h)), own.most_discharge_kw(self._step_h))
        others = [part for at, part in enumerate(parts) if at != number]
        left_kw = power_kw - own_kw if others_help else 0.0
        powers = list(split(left_kw, others, self._step_h))
        return (*powers[:number], own_kw, *powers[number:])

    def ranges(
        self, states: Sequence[BatteryState], powers_kw: Sequence[float], low_kw: float, high_kw: float
    ) -> tuple[Range, ...]:
        """Where each battery's power may be rounded to, so that together they stay within ``low_kw`` to ``high_kw``.

        What is free on either side is shared out evenly; no battery is let out of its own limits.
        """
        if len(states) == 1:
            return ((low_kw, high_kw),)
        total_kw, count = math.fsum(powers_kw), len(powers_kw)
        down_kw, up_kw = max(0.0, total_kw - low_kw) / count, max(0.0, high_kw - total_kw) / count
        return tuple(
            (
                max(power_kw - down_kw, -part.most_charge_kw(self._step_h)),
                min(power_kw + up_kw, part.most_discharge_kw(self._step_h)),
            )
            for power_kw, part in zip(powers_kw, self._parts(states), strict=True)
        )

    def _parts(self, states: Sequence[BatteryState]) -> list[SplitPart]:
        return [self._part(state, share) for state, share in zip(states, self._shares, strict=True)]

    def _part(self, state: BatteryState, share: float) -> SplitPart:
        plan, capability = self._battery, state.capability
        blocks = _blocks_share(capability)
        return SplitPart(
            charge_limit_kw=_limit(capability.charge_limit_kw, plan.charge_limit_kw, share) * blocks,
            discharge_limit_kw=_limit(capability.discharge_limit_kw, plan.discharge_limit_kw, share) * blocks,
            soe_kwh=plan.soe_min_kwh * share if state.soe_kwh is None else state.soe_kwh.value,
            soe_min_kwh=plan.soe_min_kwh * share,
            soe_max_kwh=plan.soe_max_kwh * share,
            charge_efficiency=plan.charge_efficiency,
        )


def _limit(reported_kw: float | None, planned_kw: float, share: float) -> float:
    """What it reports, but no more than the plan allows them all; else its part of the plan's."""
    if reported_kw is None or not math.isfinite(reported_kw):
        return planned_kw * share
    return min(max(reported_kw, 0.0), planned_kw)


def _blocks_share(capability: BatteryCapability) -> float:
    if capability.available_blocks is None or not capability.blocks_total:
        return 1.0
    return min(max(capability.available_blocks / capability.blocks_total, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Sending:
    """What came of telling the batteries: whether all that were told acknowledged, and who was told, by name."""

    acknowledged: bool
    told: frozenset[str]


async def send_all(
    batteries: Sequence[ControlledBattery],
    powers_kw: Sequence[float],
    source: CommandSource | None,
    within_s: float,
    needed: Needed,
    ranges: Sequence[Range | None] | None = None,
) -> Sending:
    """Send each battery its part where that is ``needed``, rounded within its one of ``ranges``.

    One that somebody else commands is told nothing.
    """
    parts = [
        (battery, power_kw, inside)
        for battery, power_kw, inside in zip(batteries, powers_kw, ranges or [None] * len(batteries), strict=True)
        if battery.other_master is None and needed(battery, power_kw, inside)
    ]
    told = frozenset(battery.name for battery, _, _ in parts)
    sends = [battery.send(power_kw, source, within_s, inside) for battery, power_kw, inside in parts]
    if len(sends) == 1:  # the usual case, without a task of its own
        return Sending(await sends[0], told)
    return Sending(all(await asyncio.gather(*sends)), told)
