"""Priority and limits written a second time, word for word after the contract and for nothing but being obvious.

Shares no code with ``flux.control``; the property tests compare the two.
"""

import math
from dataclasses import dataclass, field


@dataclass
class Asked:
    """One proposal: its mode, target, minimum, maximum."""

    mode: str
    target: float | None
    minimum: float | None
    maximum: float | None


@dataclass
class Verdict:
    power: float
    effective: str | None
    refused: list[bool]
    limits: set[str]
    bounds: list[tuple[float, float]] = field(default_factory=list)


def judge(asked: list[Asked]) -> tuple[float, str | None, list[bool], list[tuple[float, float]]]:
    """The power that the proposals come to, who set it, which were refused, and the bounds after each."""
    target: float | None = None
    lo: float | None = None
    hi: float | None = None
    who: str | None = None
    refused: list[bool] = []
    bounds: list[tuple[float, float]] = []
    for one in asked:
        outside = False
        if one.target is not None:
            if lo is not None and one.target < lo:
                outside = True
            if hi is not None and one.target > hi:
                outside = True
        refused.append(outside)
        if not outside:
            if one.target is not None and (target is None or one.target != target):
                target, who = one.target, one.mode
            raises = one.minimum is not None and (lo is None or one.minimum > lo)
            if raises and (target is None or one.minimum <= target) and (hi is None or one.minimum <= hi):  # type: ignore[operator]
                lo = one.minimum
            lowers = one.maximum is not None and (hi is None or one.maximum < hi)
            if lowers and (target is None or one.maximum >= target) and (lo is None or one.maximum >= lo):  # type: ignore[operator]
                hi = one.maximum
        bounds.append((-math.inf if lo is None else lo, math.inf if hi is None else hi))
    if target is not None:
        return target, who, refused, bounds
    idle = 0.0
    if lo is not None and idle < lo:
        idle = lo
    if hi is not None and idle > hi:
        idle = hi
    return idle, None, refused, bounds


@dataclass
class Site:
    """Everything that the limits need, in plain numbers."""

    rest: float
    soe: float
    charge: float
    discharge: float
    efficiency: float
    soe_min: float
    soe_max: float
    step_h: float
    import_limit: float
    export_limit: float


def limit(power: float, site: Site) -> tuple[float, set[str]]:
    """The four limits in their order, and the names of those that changed the figure or were missed for SoE."""
    names: set[str] = set()

    def inverter(p: float) -> float:
        if p > site.discharge:
            names.add("inverter")
            return site.discharge
        if p < -site.charge:
            names.add("inverter")
            return -site.charge
        return p

    power = inverter(power)
    if site.rest - power > site.import_limit and power < site.rest - site.import_limit:
        power = site.rest - site.import_limit
        names.add("site_import")
    elif site.rest - power < -site.export_limit and power > site.rest + site.export_limit:
        power = site.rest + site.export_limit
        names.add("site_export")
    power = inverter(power)
    before = power
    if power > 0:
        most = 0.0 if site.soe <= site.soe_min else (site.soe - site.soe_min) / site.step_h
        if power > most:
            power = most
            names.add("soe_min")
    if power < 0:
        most = 0.0 if site.soe >= site.soe_max else (site.soe_max - site.soe) / site.efficiency / site.step_h
        if power < -most:
            power = -most
            names.add("soe_max")
    if power != before:
        if power < site.rest - site.import_limit:
            names.add("site_import")
        if power > site.rest + site.export_limit:
            names.add("site_export")
    return power, names
