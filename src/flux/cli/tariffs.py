"""``flux tariffs``: check a tariff, see what it makes a MWh cost, convert a set of rate files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.errors import InputError

if TYPE_CHECKING:
    from datetime import date

    from flux.analysis.tariff import Market, Tariff

app = typer.Typer(no_args_is_help=True, help="Tariffs: what a MWh costs in each direction, and what a day costs.")

TariffFile = Annotated[Path, typer.Argument(help="A tariff file; docs/tariffs.md describes it.")]


@app.command()
def check(tariff: TariffFile) -> None:
    """Check a tariff; what is wrong is told with file, line, key and value, and the exit code is 2.

    Example: `flux tariffs check tariff.yaml`
    """
    from flux.analysis.flows import Direction
    from flux.analysis.tariff import load_tariff, tariff_hash

    loaded = load_tariff(tariff)
    counts = [f"{len(rates)} for {way.value}" for way in Direction if (rates := loaded.rates.of(way))]
    markets = " and ".join(sorted(market.value for market in loaded.markets)) or "no market"
    typer.echo(f"{tariff}: the tariff is valid ({tariff_hash(loaded)})")
    typer.echo(f"rates: {', '.join(counts)}; daily charges: {len(loaded.daily)}; it follows {markets}")


@app.command()
def show(
    tariff: TariffFile,
    day: Annotated[str | None, typer.Option(help="Local day, like 2024-01-11; default: today.")] = None,
    imbalance: Annotated[float, typer.Option(help="Imbalance price to show it at, £/MWh.")] = 0.0,
    day_ahead: Annotated[float, typer.Option(help="Day-ahead price to show it at, £/MWh.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Show what a MWh costs through a local day, £/MWh, at given market prices; + cost, − income.

    Spans in which nothing changes are one row; directions without rates are left out.

    Example: `flux tariffs show tariff.yaml --day 2024-01-11 --imbalance 80`
    """
    import json

    from flux.analysis.tariff import Market, load_tariff
    from flux.cli.shared import print_table

    loaded = load_tariff(tariff)
    rows = _day_rows(loaded, _day(day, loaded), {Market.IMBALANCE: imbalance, Market.DAY_AHEAD: day_ahead})
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        print_table(rows)
        for charge in loaded.daily:
            typer.echo(f"{charge.name}: {'−' if charge.charge < 0 else ''}£{abs(charge.charge):,.2f} a day")


@app.command()
def convert(
    import_: Annotated[list[Path] | None, typer.Option("--import", help="Rates of import; repeatable.")] = None,
    export: Annotated[list[Path] | None, typer.Option(help="Rates of export; repeatable.")] = None,
    load: Annotated[list[Path] | None, typer.Option(help="What the load pays the site; repeatable.")] = None,
    daily: Annotated[list[Path] | None, typer.Option(help="Daily charges alone; repeatable.")] = None,
    supply_points: Annotated[Path | None, typer.Option(help="Loss factors of the supply points.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here; default: print.")] = None,
) -> None:
    """Make one tariff of rate files in p/kWh and p/day (JSON or YAML: duos, powerFixed, imbalance, …).

    Example: `flux tariffs convert --import fees_import.json --import dno_import.json --export fees_export.json
    --supply-points points.json -o tariff.yaml`
    """
    from flux.analysis.flows import Direction
    from flux.analysis.tariff_convert import convert as converted

    files = [
        (direction, path)
        for direction, paths in ((Direction.IMPORT, import_), (Direction.EXPORT, export), (Direction.LOAD, load))
        for path in paths or []
    ]
    if not files:
        raise InputError("no rate files: name them with --import, --export or --load")
    text = converted(files, daily or [], supply_points)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}") from None
    typer.echo(f"wrote {output}")


def _day(text: str | None, tariff: "Tariff") -> "date":
    from datetime import UTC, date, datetime

    if text is None:
        return datetime.now(UTC).astimezone(tariff.zone).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--day {text}: not a day; write it like 2024-01-11") from None


def _day_rows(tariff: "Tariff", day: "date", prices: "dict[Market, float]") -> list[dict[str, Any]]:
    """One row for each span of the local day in which nothing changes; times are local."""
    from datetime import timedelta
    from itertools import pairwise

    import numpy as np

    from flux.analysis.flows import Direction
    from flux.analysis.rating import rate_steps
    from flux.analysis.timeline import Timeline
    from flux.control.periods import instant_of

    start, end = (instant_of(d, 0, tariff.zone) for d in (day, day + timedelta(days=1)))
    timeline = Timeline.between(start, end, timedelta(minutes=1))
    rated = rate_steps(tariff, timeline, {market: np.full(timeline.count, p) for market, p in prices.items()})
    shown = [direction for direction in Direction if tariff.rates.of(direction)]
    values = np.round(np.stack([rated.direction[direction] for direction in shown]), 9)
    changes = np.flatnonzero(np.any(np.diff(values, axis=1) != 0, axis=0)) + 1
    edges = [0, *changes.tolist(), timeline.count]
    starts = [*timeline.starts(), timeline.end]
    rows = []
    for first, after in pairwise(edges):
        clock_from, clock_to = (starts[n].astimezone(tariff.zone).strftime("%H:%M") for n in (first, after))
        row: dict[str, Any] = {"from": clock_from, "to": "24:00" if after == timeline.count else clock_to}
        rows.append(row | {d.value: float(v[first]) for d, v in zip(shown, values, strict=True)})
    return rows
