"""The limits a decision is brought inside, in this order: inverter, grid connection, inverter again, SoE.

The grid limit may turn the battery round: a site that would export 500 kW and may export 475 kW charges 25 kW.
"""

import math
from typing import NamedTuple

from flux.control.decision import Limit
from flux.control.parts import BatteryConfig, SiteConfig
from flux.control.state import BatteryCapability, SiteLimits


class GridRange(NamedTuple):
    """The battery powers that keep the site inside its limits; ``invalid`` tells why today's limits are not used."""

    low_kw: float
    high_kw: float
    import_kw: float
    export_kw: float
    invalid: str | None


class InverterRange(NamedTuple):
    """The battery powers that the inverter can carry now."""

    low_kw: float
    high_kw: float


class Limited(NamedTuple):
    """A power inside the limits, and those that changed it or had to be missed."""

    power_kw: float
    limits: tuple[Limit, ...]
    missed: Limit | None = None


def inverter_range(battery: BatteryConfig, capability: BatteryCapability) -> InverterRange:
    """The plan's limits, shrunk to what the battery reports; a report can only make them smaller."""
    share = _available_share(battery, capability)
    charge = _smaller(battery.charge_limit_kw, capability.charge_limit_kw) * share
    discharge = _smaller(battery.discharge_limit_kw, capability.discharge_limit_kw) * share
    return InverterRange(-charge, discharge)


def grid_range(rest_kw: float, site: SiteConfig, limits: SiteLimits) -> GridRange:
    """Where L − p stays inside [−export limit, +import limit]: today's limits if they can be used, else the plan's."""
    import_kw, export_kw = (
        _usable(limits.import_kw, site.import_limit_kw),
        _usable(limits.export_kw, site.export_limit_kw),
    )
    invalid = None
    if import_kw + export_kw < 0:
        invalid = f"site limits leave no range (import {import_kw:g} kW, export {export_kw:g} kW): the plan's are used"
        import_kw, export_kw = site.import_limit_kw, site.export_limit_kw
    return GridRange(rest_kw - import_kw, rest_kw + export_kw, import_kw, export_kw, invalid)


def full_discharge_kw(inverter: InverterRange, grid: GridRange) -> float:
    """What +∞ becomes after limits 1 to 3; 0 or less when the site has no use for any discharge."""
    return _clamp(min(inverter.high_kw, grid.high_kw), inverter.low_kw, inverter.high_kw)


def apply_limits(
    power_kw: float, inverter: InverterRange, grid: GridRange, soe_kwh: float, battery: BatteryConfig, step_h: float
) -> Limited:
    """All limits, 1 to 4; a grid limit that SoE makes the site miss is named too."""
    room, spendable = _charge_room(soe_kwh, battery, step_h), _spendable(soe_kwh, battery, step_h)
    highest = min(inverter.high_kw, grid.high_kw, spendable)
    if max(inverter.low_kw, grid.low_kw, -room) <= power_kw <= highest:
        return Limited(power_kw + 0.0, ())  # + 0.0: there is no -0.0 kW
    clamped = _clamp(power_kw, inverter.low_kw, inverter.high_kw)
    in_grid = _clamp(clamped, grid.low_kw, grid.high_kw)
    carried = _clamp(in_grid, inverter.low_kw, inverter.high_kw)
    power = _clamp(carried, -room, spendable) + 0.0
    missed = None
    if power != carried:
        missed = Limit.SITE_IMPORT if power < grid.low_kw else Limit.SITE_EXPORT if power > grid.high_kw else None
    hit = (
        (Limit.INVERTER, clamped != power_kw or carried != in_grid),
        (Limit.SITE_IMPORT, in_grid > clamped or missed is Limit.SITE_IMPORT),
        (Limit.SITE_EXPORT, in_grid < clamped or missed is Limit.SITE_EXPORT),
        (Limit.SOE_MIN, power < carried),
        (Limit.SOE_MAX, power > carried),
    )
    return Limited(power, tuple([limit for limit, named in hit if named]), missed)


def allowed_range(
    inverter: InverterRange, grid: GridRange, soe_kwh: float, battery: BatteryConfig, step_h: float
) -> tuple[float, float]:
    """The powers that :func:`apply_limits` leaves as they are: what a rounded set-point has to stay within."""
    low = max(inverter.low_kw, -_charge_room(soe_kwh, battery, step_h))
    high = min(inverter.high_kw, _spendable(soe_kwh, battery, step_h))
    return _clamp(grid.low_kw, low, high), _clamp(grid.high_kw, low, high)


def _charge_room(soe_kwh: float, battery: BatteryConfig, step_h: float) -> float:
    """The hardest charge, kW ≥ 0, that does not pass soe_max within one step."""
    return max(0.0, (battery.soe_max_kwh - soe_kwh) / battery.charge_efficiency / step_h)


def _spendable(soe_kwh: float, battery: BatteryConfig, step_h: float) -> float:
    """The hardest discharge, kW ≥ 0, that does not pass soe_min within one step."""
    return max(0.0, (soe_kwh - battery.soe_min_kwh) / step_h)


def _available_share(battery: BatteryConfig, capability: BatteryCapability) -> float:
    total = battery.blocks_total if capability.blocks_total is None else capability.blocks_total
    if total is None or total <= 0 or capability.available_blocks is None:
        return 1.0
    return _clamp(capability.available_blocks / total, 0.0, 1.0)


def _smaller(planned_kw: float, reported_kw: float | None) -> float:
    if reported_kw is None or not math.isfinite(reported_kw):
        return planned_kw
    return _clamp(reported_kw, 0.0, planned_kw)


def _usable(limit_kw: float | None, planned_kw: float) -> float:
    return planned_kw if limit_kw is None or not math.isfinite(limit_kw) else limit_kw


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
