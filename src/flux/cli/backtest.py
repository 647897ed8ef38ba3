"""``flux backtest``: what a plan would have made of history."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.history import HistoryFiles, duration, local_instant
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.analysis.backtest import Progress
    from flux.analysis.outcome import Outcome


def backtest(
    plan: Annotated[list[Path], typer.Option(help="site.yaml, or its controller section alone; repeatable.")],
    first: Annotated[str, typer.Option("--from", help="Local day or time: 2024-01-01, 2024-01-01T12:00Z.")],
    end: Annotated[str, typer.Option("--to", help="End, not included; written like --from.")],
    load: Annotated[
        str | None, typer.Option(help="CSV of half-hour energies (kWh), or a synthetic mean in kW.")
    ] = None,
    solar: Annotated[str | None, typer.Option(help="CSV like --load's, or a synthetic peak in kW.")] = None,
    prices: Annotated[
        list[Path] | None, typer.Option(help="CSV: time, and price, day_ahead, niv_mw or volume (MWh); repeatable.")
    ] = None,
    dispatch: Annotated[Path | None, typer.Option(help="CSV of what mode axle was asked: start, end, action.")] = None,
    envelopes: Annotated[
        Path | None, typer.Option(help="CSV of operating envelopes: start, end, import_kw, export_kw.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Take what no file gives from the store, for this site.")] = None,
    tariff: Annotated[Path | None, typer.Option(help="What energy costs; default: the imbalance price.")] = None,
    step: Annotated[str, typer.Option(help="Time from one decision to the next; divides half an hour.")] = "10m",
    load_scale: Annotated[float, typer.Option(min=0, help="Multiplies the load.")] = 1.0,
    solar_scale: Annotated[float, typer.Option(min=0, help="Multiplies the sun.")] = 1.0,
    price_unit: Annotated[str, typer.Option(help="Of --prices: £/MWh or p/kWh.")] = "£/MWh",
    known_after: Annotated[
        str | None,
        typer.Option(help="When a half hour's figures are known, from its start; default: 10m, or as stored."),
    ] = None,
    soe: Annotated[float, typer.Option(min=0, max=100, help="State of energy at the start, %.")] = 50.0,
    out: Annotated[Path | None, typer.Option(help="Write every half hour: a .csv or .parquet file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures: an .html file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, one object for each plan.")] = False,
) -> None:
    """Run plans over history: the very controller, the simulator's battery, the market as it was known then.

    With --site, dispatch and operating envelopes too are those that the site had, from when it was told of them.

    Files of another year than the span count by month, day and clock time. Several plans run side by side.

    Example: `flux backtest --plan site.yaml --from 2024-01-01 --to 2024-02-01 --load load.csv --prices prices.csv`

    Example: `flux backtest --plan a.yaml --plan b.yaml --from 2024-01-01 --to 2024-02-01 --site WLCE --report ab.html`
    """
    from flux.analysis.backtest import Backtest, check_span, run_all
    from flux.analysis.summary import summary_of
    from flux.analysis.tariff import load_tariff
    from flux.control.plan import load_plan

    plans = [load_plan(path) for path in plan]
    zone, length = plans[0].zone, duration(step, "--step")
    span = local_instant(first, zone, "--from"), local_instant(end, zone, "--to")
    check_span(*span, length)
    for path, endings in ((out, (".csv", ".parquet")), (report, (".html",))):
        if path is not None and path.suffix not in endings:
            raise InputError(f"{path}: must end with {' or '.join(endings)}")
    delay = None if known_after is None else duration(known_after, "--known-after")
    files = HistoryFiles(load, solar, prices or [], load_scale, solar_scale, price_unit, delay, dispatch, envelopes)
    history = files.history(site, span, zone)
    rates = load_tariff(tariff) if tariff else history.tariff
    backtests = [
        Backtest(name, one, history.setting(*span, length, one.battery.capacity_kwh * soe / 100), rates)
        for name, one in zip(_names(plan), plans, strict=True)
    ]
    with _progress([one.name for one in backtests], quiet=as_json) as progress:
        outcomes = run_all(backtests, progress)
    summaries = [summary_of(outcome, history.notices) for outcome in outcomes]
    _write(outcomes, summaries, out, report)
    _print(outcomes, summaries, as_json)


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names without their endings; with a number where two have the same."""
    stems = [path.stem for path in paths]
    return [
        f"{stem}-{stems[: number + 1].count(stem)}" if stems.count(stem) > 1 else stem
        for number, stem in enumerate(stems)
    ]


@contextmanager
def _progress(names: Sequence[str], *, quiet: bool) -> "Iterator[Progress]":
    """A bar for each plan on a terminal; nothing elsewhere."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield lambda _number, _share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = [bars.add_task(name, total=1.0) for name in names]
        yield lambda number, share: bars.update(tasks[number], completed=share)


def _write(
    outcomes: "Sequence[Outcome]", summaries: "Sequence[dict[str, Any]]", out: Path | None, report: Path | None
) -> None:
    from flux.analysis.halfhours import half_hour_columns, write_half_hours

    for outcome in outcomes:
        if out is not None:
            path = out if len(outcomes) == 1 else out.with_stem(f"{out.stem}-{outcome.name}")
            write_half_hours(path, half_hour_columns(outcome))
            typer.echo(f"{path}: every half hour of {outcome.name}", err=True)
    if report is not None:
        from flux.analysis.report import report_page

        try:
            report.write_text(report_page(outcomes, summaries), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{report}: {error.strerror}") from None
        typer.echo(f"{report}: the report", err=True)


def _print(outcomes: "Sequence[Outcome]", summaries: "Sequence[dict[str, Any]]", as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(summaries, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from flux.analysis.figures import rows_of

    first = outcomes[0]
    table = Table(box=None, header_style="bold", show_header=len(outcomes) > 1)
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.name, justify="right", no_wrap=True)
    for label, values in rows_of(summaries):
        table.add_row(label if values else f"[bold]{label}[/]", *values)
    console = Console()
    if not console.is_terminal:
        console.width = 10_000
    start, end = (instant.astimezone(first.zone) for instant in (first.timeline.start, first.timeline.end))
    typer.echo(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {first.timeline.count:,} decisions")
    console.print(table)
    for outcome, summary in zip(outcomes, summaries, strict=True):
        for notice in summary["notices"]:
            typer.echo(f"{outcome.name}: {notice}" if len(outcomes) > 1 else f"note: {notice}")
