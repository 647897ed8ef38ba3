"""A summary's figures as people read them: one list for the terminal and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from flux.analysis.flows import Flow

Summary = Mapping[str, Any]
Row = tuple[str, list[str]]
"""A label, and a text for each run; no texts: a heading."""

_NONE = "–"


def rows_of(summaries: Sequence[Summary]) -> list[Row]:
    """The figures of runs side by side."""
    return [*_money(summaries), *_energies(summaries), *_battery(summaries), *_hours(summaries)]


def _money(runs: Sequence[Summary]) -> list[Row]:
    costs = [run["costs_gbp"] for run in runs]
    if all(cost is None for cost in costs):
        return []
    rows: list[Row] = [
        ("without the battery", [pounds(cost, "total_without_battery") for cost in costs]),
        ("with it", [pounds(cost, "total") for cost in costs]),
        ("earned by the battery", [pounds(cost, "earned") for cost in costs]),
    ]
    perfect = [run["perfect"] for run in runs]
    if any(perfect):
        rows.append(("the most that could be earned", [pounds(best, "earned") for best in perfect]))
        rows.append(("earned of that", [percent(best["share"]) if best else _NONE for best in perfect]))
    return [("Cost, £ (− income)", []), *rows]


def _energies(runs: Sequence[Summary]) -> list[Row]:
    rows: list[Row] = [("Energy, kWh (and £)", [])]
    rows += [(flow.value.replace("_to_", " → "), [_energy(run, flow) for run in runs]) for flow in Flow]
    totals = ("load", "solar", "import", "export")
    return rows + [(key, [f"{run['energy_kwh'][key]:,.1f}" for run in runs]) for key in totals]


def _energy(run: Summary, flow: Flow) -> str:
    energy = f"{run['energy_kwh']['flows'][flow.value]:,.1f}"
    costs = run["costs_gbp"]
    cost = 0.0 if costs is None else costs["flows"][flow.value]
    return f"{energy} ({_signed(cost)})" if abs(cost) >= 0.005 else energy


def _battery(runs: Sequence[Summary]) -> list[Row]:
    batteries, sites = [run["battery"] for run in runs], [run["site"] for run in runs]
    rows: list[Row] = [
        ("charged / discharged, kWh", [_both(run["energy_kwh"], "charge", "discharge") for run in runs]),
        ("stored at start / end, kWh", [_both(one, "start_soe_kwh", "end_soe_kwh") for one in batteries]),
        ("losses, kWh", [f"{one['losses_kwh']:,.1f}" for one in batteries]),
        ("cycles", [f"{one['cycles']:,.2f}" for one in batteries]),
        ("self-consumption", [percent(one["self_consumption"]) for one in sites]),
        ("self-sufficiency", [percent(one["self_sufficiency"]) for one in sites]),
        ("peak import, kW", [f"{one['peak_import_kw']:,.1f}" for one in sites]),
        ("peak export, kW", [f"{one['peak_export_kw']:,.1f}" for one in sites]),
    ]
    return [("Battery and site", []), *rows]


def _hours(runs: Sequence[Summary]) -> list[Row]:
    rows: list[Row] = [("Hours in which it took effect", [])]
    for key, suffix in (("hours_by_mode", ""), ("hours_by_limit", " (limit)")):
        names = sorted({name for run in runs for name in run[key]}, key=lambda n: -runs[0][key].get(n, 0.0))
        rows += [(name.replace("_", " ") + suffix, [_hour(run[key].get(name)) for run in runs]) for name in names]
    return rows


def pounds(costs: Mapping[str, Any] | None, key: str) -> str:
    """An amount of a run's costs."""
    return _NONE if costs is None else _signed(costs[key])


def percent(share: float | None) -> str:
    """0.781 as 78.1 %."""
    return _NONE if share is None else f"{share:.1%}".replace("%", " %")


def _signed(amount: float) -> str:
    return f"{round(amount, 2) + 0.0:,.2f}".replace("-", "−")


def _both(values: Mapping[str, float], first: str, second: str) -> str:
    return f"{values[first]:,.1f} / {values[second]:,.1f}"


def _hour(hours: float | None) -> str:
    return _NONE if hours is None else f"{hours:,.1f}"
