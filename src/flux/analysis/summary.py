"""An outcome in figures: one plain mapping for JSON, tables and pages. Every key says its unit."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import numpy as np

from flux.analysis.flows import Flow, Series
from flux.analysis.outcome import Money, Outcome, unpriced_half_hours
from flux.control.periods import instant_of


def summary_of(outcome: Outcome, notices: Sequence[str] = ()) -> dict[str, Any]:
    """Everything about a run that is not a series. ``notices``: what weakens the history that it ran on."""
    timeline, course = outcome.timeline, outcome.course
    return {
        "name": outcome.name,
        "from": timeline.start.isoformat(),
        "to": timeline.end.isoformat(),
        "step_s": timeline.step.total_seconds(),
        "decisions": timeline.count,
        "energy_kwh": _energies(outcome),
        "battery": {
            "start_soe_kwh": course.start_soe_kwh,
            "end_soe_kwh": float(outcome.soe_kwh[-1]),
            "losses_kwh": outcome.losses_kwh,
            "cycles": outcome.cycles,
        },
        "site": {
            "self_consumption": outcome.self_consumption,
            "self_sufficiency": outcome.self_sufficiency,
            "peak_import_kw": float(outcome.highest_import_kw.max()),
            "peak_export_kw": float(outcome.highest_export_kw.max()),
            "hours_over_import_limit": outcome.hours_over_import_limit,
            "hours_over_export_limit": outcome.hours_over_export_limit,
        },
        "costs_gbp": None if outcome.money is None else _costs(outcome.money),
        "perfect": None if outcome.perfect is None else asdict(outcome.perfect),
        "hours_by_mode": outcome.mode_hours(),
        "hours_by_limit": outcome.limit_hours(),
        "months": months_of(outcome),
        "notices": [*notices, *notices_of(outcome)],
    }


def months_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The main figures of each local month of the span."""
    names, firsts = _months(outcome)
    imported, exported = outcome.import_kwh, outcome.export_kwh
    columns = {
        "load_kwh": outcome.load_kwh,
        "solar_kwh": outcome.solar_kwh,
        "import_kwh": imported,
        "export_kwh": exported,
        "charge_kwh": outcome.charge_kwh,
        "discharge_kwh": outcome.discharge_kwh,
    }
    if outcome.money is not None:
        cost, without = (_sum(list(parts.values())) for parts in (outcome.money.flows, outcome.money.without))
        columns |= {"cost_gbp": cost, "earned_gbp": without - cost}
    sums = {name: np.add.reduceat(values, firsts) for name, values in columns.items()}
    sums["peak_import_kw"] = np.maximum.reduceat(outcome.highest_import_kw, firsts)
    sums["cycles"] = sums["discharge_kwh"] / outcome.battery.capacity_kwh
    return [{"month": month, **{key: float(sums[key][at]) for key in sums}} for at, month in enumerate(names)]


def _sum(parts: list[Series]) -> Series:
    total: Series = np.nansum(parts, axis=0)
    return total


def _months(outcome: Outcome) -> tuple[list[str], list[int]]:
    """Each local month, and its first step."""
    timeline, zone = outcome.timeline, outcome.zone
    first_day = timeline.start.astimezone(zone).date().replace(day=1)
    names, firsts, at = [f"{first_day:%Y-%m}"], [0], first_day
    while True:
        at = (at + timedelta(days=32)).replace(day=1)
        number = -((timeline.start - instant_of(at, 0, zone)) // timeline.step)
        if number >= timeline.count:
            return names, firsts
        names.append(f"{at:%Y-%m}")
        firsts.append(number)


def notices_of(outcome: Outcome) -> list[str]:
    """What weakens the figures, in words."""
    notices = []
    unpriced = unpriced_half_hours(outcome)
    if unpriced:
        notices.append(f"{unpriced} half hours have no price; their energy is in no cost")
    stored = float(outcome.soe_kwh[-1]) - outcome.course.start_soe_kwh
    if abs(stored) >= 0.01 * outcome.battery.capacity_kwh:
        more = "more" if stored > 0 else "less"
        notices.append(f"{abs(stored):,.1f} kWh {more} are stored at the end than at the start; no cost counts them")
    if (hours := outcome.hours_over_import_limit) > 0:
        notices.append(f"the site draws more than its import limit in {hours:,.1f} hours")
    if (hours := outcome.hours_over_export_limit) > 0:
        notices.append(f"the site gives more than its export limit in {hours:,.1f} hours")
    return notices


def _energies(outcome: Outcome) -> dict[str, Any]:
    return {
        "load": float(outcome.load_kwh.sum()),
        "solar": float(outcome.solar_kwh.sum()),
        "import": float(outcome.import_kwh.sum()),
        "export": float(outcome.export_kwh.sum()),
        "charge": float(outcome.charge_kwh.sum()),
        "discharge": float(outcome.discharge_kwh.sum()),
        "flows": {flow.value: float(outcome.flows[flow].sum()) for flow in Flow},
    }


def _costs(money: Money) -> dict[str, Any]:
    """£, + cost and − income."""
    return {
        "flows": {flow.value: float(np.nansum(money.flows[flow])) for flow in Flow},
        "daily": dict(money.daily),
        "total": money.total,
        "total_without_battery": money.total_without,
        "earned": money.earned,
    }
