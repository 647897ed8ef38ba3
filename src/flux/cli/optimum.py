"""``flux optimum``: the best that a battery could have done."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.history import HistoryFiles, duration, local_instant
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.analysis.optimum import Optimum, OptimumInputs
    from flux.analysis.tariff import Tariff
    from flux.control.plan import ControllerPlan


def optimum(
    plan: Annotated[Path, typer.Option(help="site.yaml, or its controller section: its battery and grid limits.")],
    first: Annotated[str, typer.Option("--from", help="Local day or time: 2024-01-01, 2024-01-01T12:00Z.")],
    end: Annotated[str, typer.Option("--to", help="End, not included; written like --from.")],
    load: Annotated[
        str | None, typer.Option(help="CSV of half-hour energies (kWh), or a synthetic mean in kW.")
    ] = None,
    solar: Annotated[str | None, typer.Option(help="CSV like --load's, or a synthetic peak in kW.")] = None,
    prices: Annotated[list[Path] | None, typer.Option(help="CSV: time, and price or day_ahead; repeatable.")] = None,
    envelopes: Annotated[
        Path | None, typer.Option(help="CSV of operating envelopes: start, end, import_kw, export_kw.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Take what no file gives from the store, for this site.")] = None,
    tariff: Annotated[Path | None, typer.Option(help="What energy costs; default: the imbalance price.")] = None,
    step: Annotated[str, typer.Option(help="Length of a step, in which the power stays the same.")] = "10m",
    load_scale: Annotated[float, typer.Option(min=0, help="Multiplies the load.")] = 1.0,
    solar_scale: Annotated[float, typer.Option(min=0, help="Multiplies the sun.")] = 1.0,
    price_unit: Annotated[str, typer.Option(help="Of --prices: £/MWh or p/kWh.")] = "£/MWh",
    soe: Annotated[float, typer.Option(min=0, max=100, help="State of energy at the start, %.")] = 50.0,
    end_soe: Annotated[
        float | None, typer.Option(min=0, max=100, help="At least so much at the end, %; default: anything.")
    ] = None,
    cycles: Annotated[float | None, typer.Option(min=0, help="At most so many cycles each local day.")] = None,
    horizon: Annotated[str | None, typer.Option(help="See only so far ahead, like 24h; default: to the end.")] = None,
    stride: Annotated[str | None, typer.Option(help="Look again after so long; default: half the horizon.")] = None,
    time_limit: Annotated[str, typer.Option(help="After so long take the best found, and tell its bound.")] = "20s",
    out: Annotated[Path | None, typer.Option(help="Write every step: a .csv or .parquet file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print energies, costs and the objective as JSON.")] = False,
) -> None:
    """Find the cheapest course of a battery that knows every price, load and sun beforehand.

    No control can do better; `flux backtest` says how near a plan comes. Daily charges are no part of the objective.

    Example: `flux optimum --plan site.yaml --from 2024-01-01 --to 2024-02-01 --load load.csv --prices prices.csv`
    """
    import json
    from datetime import timedelta

    from flux.analysis.backtest import check_span
    from flux.analysis.optimum import optimum as best_of
    from flux.analysis.tariff import load_tariff
    from flux.control.plan import load_plan

    loaded, length = load_plan(plan), duration(step, "--step")
    span = local_instant(first, loaded.zone, "--from"), local_instant(end, loaded.zone, "--to")
    check_span(*span, length)
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise InputError(f"{out}: must end with .csv or .parquet")
    files = HistoryFiles(
        load, solar, prices or [], load_scale, solar_scale, price_unit, timedelta(), envelopes=envelopes
    )
    history = files.history(site, span, loaded.zone)
    rates = load_tariff(tariff) if tariff else history.tariff
    if rates is None:
        raise InputError("no --tariff and no --prices: there is nothing to be earned")
    wishes: dict[str, Any] = {
        "start_soe_kwh": loaded.battery.capacity_kwh * soe / 100,
        "end_soe_kwh": None if end_soe is None else loaded.battery.capacity_kwh * end_soe / 100,
        "cycles_per_day": cycles,
        "horizon": None if horizon is None else duration(horizon, "--horizon"),
        "stride": None if stride is None else duration(stride, "--stride"),
        "time_limit_s": duration(time_limit, "--time-limit").total_seconds(),
    }
    inputs = _inputs(loaded, history, rates, (*span, length), wishes)
    found = best_of(inputs)
    if out is not None:
        _write(out, inputs, found)
    summary = _summary(inputs, found, rates) | {"notices": list(history.notices)}
    typer.echo(json.dumps(summary, indent=1)) if as_json else _print(summary)


def _inputs(
    plan: "ControllerPlan", history: Any, tariff: "Tariff", span: tuple[Any, Any, Any], wishes: dict[str, Any]
) -> "OptimumInputs":
    from flux.analysis.known import newest_prices
    from flux.analysis.laying import energies_on
    from flux.analysis.optimum import OptimumInputs
    from flux.analysis.outcome import market_prices, prices_on
    from flux.analysis.rating import rate_steps
    from flux.analysis.timeline import Timeline
    from flux.analysis.told import limits_on

    timeline = Timeline.between(*span)
    imbalance = prices_on(timeline, newest_prices(history.releases))
    day_ahead = prices_on(timeline, history.day_ahead) if history.day_ahead else None
    return OptimumInputs(
        timeline=timeline,
        battery=plan.battery,
        site=plan.site,
        load_kwh=energies_on(timeline, history.load),
        solar_kwh=energies_on(timeline, history.solar),
        rates=rate_steps(tariff, timeline, market_prices(imbalance, day_ahead)).flow,
        limits_kw=limits_on(timeline, history.told, plan.site),
        zone=plan.zone,
        **wishes,
    )


def _summary(inputs: "OptimumInputs", found: "Optimum", tariff: "Tariff") -> dict[str, Any]:
    from flux.analysis.rating import daily_charges

    timeline = found.timeline
    losses = float(found.charge_kwh.sum() - found.discharge_kwh.sum()) - float(found.soe_kwh[-1] - inputs.start_soe_kwh)
    return {
        "from": timeline.start.isoformat(),
        "to": timeline.end.isoformat(),
        "steps": timeline.count,
        "step_s": timeline.step.total_seconds(),
        "energy_kwh": {flow.value: float(kwh.sum()) for flow, kwh in found.flows.items()},
        "charged_kwh": float(found.charge_kwh.sum()),
        "discharged_kwh": float(found.discharge_kwh.sum()),
        "losses_kwh": losses,
        "start_soe_kwh": inputs.start_soe_kwh,
        "end_soe_kwh": float(found.soe_kwh[-1]),
        "cycles": found.cycles,
        "costs_gbp": {flow.value: _known_sum(costs) for flow, costs in found.costs.items()},
        "objective_gbp": found.cost,
        "bound_gbp": found.bound,
        "without_battery_gbp": found.cost_without,
        "earned_gbp": found.earned,
        "daily_charges_gbp": daily_charges(tariff, timeline.start, timeline.end),
        "over_limits_kwh": found.over_limits_kwh,
        "unpriced_steps": found.unpriced_steps,
        "binaries": found.binaries,
    }


def _known_sum(values: Any) -> float:
    import numpy as np

    return float(np.nansum(values))


def _write(path: Path, inputs: "OptimumInputs", found: "Optimum") -> None:
    from flux.analysis.halfhours import write_half_hours

    times = [start.isoformat().replace("+00:00", "Z") for start in found.timeline.starts()]
    columns: dict[str, Any] = {"time": times, "load_kwh": inputs.load_kwh, "solar_kwh": inputs.solar_kwh}
    columns |= {"charge_kwh": found.charge_kwh, "discharge_kwh": found.discharge_kwh, "soe_kwh": found.soe_kwh}
    columns |= {f"{flow.value}_kwh": kwh for flow, kwh in found.flows.items()}
    columns |= {f"{flow.value}_gbp": costs for flow, costs in found.costs.items()}
    write_half_hours(path, columns)
    typer.echo(f"{path}: every step", err=True)


def _print(summary: dict[str, Any]) -> None:
    from flux.cli.shared import print_table

    rows = [
        {"flow": name.replace("_", " "), "energy_kWh": kwh, "cost": _pounds(summary["costs_gbp"][name])}
        for name, kwh in summary["energy_kwh"].items()
    ]
    print_table(rows)
    typer.echo(
        f"charged {summary['charged_kwh']:,.2f} kWh, discharged {summary['discharged_kwh']:,.2f} kWh,"
        f" {summary['cycles']:.1f} cycles, at the end {summary['end_soe_kwh']:,.2f} kWh"
    )
    bound = summary["bound_gbp"]
    near = "a limited horizon: no bound" if bound is None else f"at most £{summary['objective_gbp'] - bound:.2f} off"
    typer.echo(
        f"energy costs {_pounds(summary['objective_gbp'])} ({near}), without the battery"
        f" {_pounds(summary['without_battery_gbp'])}: it earns {_pounds(summary['earned_gbp'])}"
    )
    for notice in summary["notices"]:
        typer.echo(f"note: {notice}")
    if summary["over_limits_kwh"]:
        typer.echo(f"note: {summary['over_limits_kwh']:,.2f} kWh beyond the grid's limits, which no course could keep")
    if summary["unpriced_steps"]:
        typer.echo(f"note: in {summary['unpriced_steps']:,} steps without a price the battery rests")


def _pounds(value: float) -> str:
    return f"{'−' if value < -0.005 else ''}£{abs(value):,.2f}"
