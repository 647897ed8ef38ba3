"""How the site's target is split among its batteries. Pure.

By available power, energy and efficiency: of two batteries of one size the fuller one gives more and takes less, so
that they run full and empty together. Two of 100 kW at 80 % and 40 % give 60 kW as 40 and 20 kW.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One battery. Powers ≥ 0 in kW, as it is able now; energies in kWh; the efficiency is that of charging."""

    charge_limit_kw: float
    discharge_limit_kw: float
    soe_kwh: float
    soe_min_kwh: float
    soe_max_kwh: float
    charge_efficiency: float = 1.0

    def most_charge_kw(self, step_h: float) -> float:
        """The hardest charge, ≥ 0, that neither passes its limit nor its highest SoE within a step."""
        room = max(0.0, self.soe_max_kwh - self.soe_kwh)
        return max(0.0, min(self.charge_limit_kw, room / self.charge_efficiency / step_h))

    def most_discharge_kw(self, step_h: float) -> float:
        """The hardest discharge, ≥ 0, that neither passes its limit nor its lowest SoE within a step."""
        spendable = max(0.0, self.soe_kwh - self.soe_min_kwh)
        return max(0.0, min(self.discharge_limit_kw, spendable / step_h))

    @property
    def charge_weight(self) -> float:
        """Available power × the free part of its range × efficiency: what is stored of each kWh counts."""
        return self.charge_limit_kw * _part(self.soe_max_kwh - self.soe_kwh, self) * self.charge_efficiency

    @property
    def discharge_weight(self) -> float:
        """Available power × the filled part of its range; discharge is lossless."""
        return self.discharge_limit_kw * _part(self.soe_kwh - self.soe_min_kwh, self)


def split(target_kw: float, parts: Sequence[SplitPart], step_h: float) -> tuple[float, ...]:
    """Each battery's power for a target of them all (+ discharge), in the order of ``parts``.

    They add up to the target whenever the batteries together can carry it; else each gets the most that it can. No
    battery is given more than its own limits, and none charges while another discharges. ``step_h`` > 0, in hours.
    """
    if target_kw >= 0:
        most = [part.most_discharge_kw(step_h) for part in parts]
        powers = _fill(target_kw, most, [part.discharge_weight for part in parts])
    else:
        most = [part.most_charge_kw(step_h) for part in parts]
        powers = _fill(-target_kw, most, [part.charge_weight for part in parts])
    return tuple(math.copysign(power, target_kw) if power else 0.0 for power in powers)


def most_together(parts: Sequence[SplitPart], step_h: float) -> tuple[float, float]:
    """The hardest charge and the hardest discharge of all batteries together, both ≥ 0, in kW."""
    charge_kw = sum(part.most_charge_kw(step_h) for part in parts)
    return charge_kw, sum(part.most_discharge_kw(step_h) for part in parts)


def _fill(wanted_kw: float, most_kw: list[float], weights: list[float]) -> list[float]:
    """Share by weight; what one cannot carry goes to the others by their weights, until nothing is left over."""
    powers = [0.0] * len(most_kw)
    open_ = {number for number, most in enumerate(most_kw) if most > 0 and weights[number] > 0}
    left_kw = min(wanted_kw, sum(most_kw))
    while open_ and left_kw > _ROUNDING:
        total = sum(weights[number] for number in open_)
        shares = {number: left_kw * weights[number] / total for number in open_}
        full = {number for number in open_ if powers[number] + shares[number] >= most_kw[number]}
        if not full:
            for number, share in shares.items():
                powers[number] += share
            break
        for number in full:
            left_kw -= most_kw[number] - powers[number]
            powers[number] = most_kw[number]
        open_ -= full
    return powers


def _part(energy_kwh: float, part: SplitPart) -> float:
    """The part of its usable range that ``energy_kwh`` is, in [0, 1]."""
    return min(max(energy_kwh / (part.soe_max_kwh - part.soe_min_kwh), 0.0), 1.0)
