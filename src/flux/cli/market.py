"""``flux market``: what was fetched, what was known when, and what it had to do with the batteries."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.market_fetch import fetch, import_
from flux.cli.market_types import types_app
from flux.cli.platform import platform
from flux.cli.readings import _now
from flux.cli.shared import print_table, run_on_database
from flux.cli.spans import moment, span
from flux.errors import InputError

if TYPE_CHECKING:
    from flux.api.typed.market import MarketType, Value
    from flux.model import MarketValue
    from flux.store.correlate import Correlation
    from flux.store.market import DataType

app = typer.Typer(
    no_args_is_help=True,
    help="Prices, imbalance and dispatch: fetched, kept as they were known, joined with the batteries.",
)
app.add_typer(types_app, name="types")
app.command()(fetch)
app.command("import")(import_)

Since = Annotated[
    str, typer.Option("--from", "--since", help="From then on: 2h, 7d ago, 2026-01-15 (GB day) or a time.")
]
Until = Annotated[str | None, typer.Option("--to", "--until", help="Until then, not included; now if not given.")]
AsOf = Annotated[str | None, typer.Option(help="As it was known then, written like --from; the newest if not given.")]
Site = Annotated[str | None, typer.Option(help="With the site's own values, which go before those for all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List what there is: types, how many values, from when to when. Times are UTC.

    Example: `flux market list`
    """
    from flux.api.typed import market

    with platform() as there:
        rows = there.call(market.market_summary)
    _print(rows, as_json, ("type", "name", "unit", "site", "count", "first", "last", "last_value", "known_at"))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how the worker's market jobs are doing: when each last succeeded, and why it does not.

    Example: `flux market status`
    """
    from flux.local.market_jobs import PREFIX
    from flux.store import queries

    rows = [row for row in run_on_database(queries.worker_jobs) if row["name"].startswith(PREFIX)]
    nothing = "no market platform has been asked yet; `flux worker --config` does it, see docs/market.md"
    _print(rows, as_json, ("name", "age_s", "succeeded_at", "failed_at", "failure"), nothing)


@app.command()
def show(
    type: Annotated[str, typer.Argument(help="Name or number of a type; see `flux market types list`.")],
    since: Since = "24h",
    until: Until = None,
    as_of: AsOf = None,
    history: Annotated[bool, typer.Option("--history", help="Every value that was known, oldest first.")] = False,
    site: Site = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show values of a type. Times are UTC, of a settlement period its start.

    Example: `flux market show imbalance_price --from 2024-01-15 --to 2024-01-16 --as-of 2024-01-15T17:10Z`
    """
    from flux.api.typed import market

    if history and as_of:
        raise InputError("--history or --as-of, not both: history shows since when each value was known")
    start, end = span(since, until)
    then = None if as_of is None else moment(as_of, _now(), "--as-of")
    with platform() as there:
        found = there.call(
            market.market_values, type=type, start=start, end=end, as_of=then, history=history, site=site
        )
    kind, values = found.type, found.values
    rows = [_row(kind, value) for value in values]
    if as_csv:
        _print_csv(rows)
    elif as_json:
        _print(rows, as_json, None)
    else:
        shown = [{"time": row["time"], "site": row["site"], f"{kind.name}_{kind.unit}": row["value"]} for row in rows]
        more = [{"known_at": row["known_at"], "metadata": row["metadata"]} for row in rows]
        _print([a | b for a, b in zip(shown, more, strict=True)], False, None, nothing=f"no {kind.name} in that span")


@app.command()
def plot(
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG file to write.")],
    type: Annotated[list[str] | None, typer.Option(help="Name or number; repeatable; all if not given.")] = None,
    since: Since = "2d",
    until: Until = None,
    as_of: AsOf = None,
    site: Site = None,
) -> None:
    """Draw values over time, a panel for each unit.

    Example: `flux market plot --type imbalance_price --type niv_estimate --from 2024-01-15 --to 2024-01-17 -o p.svg`
    """
    from flux.charts import draw_series
    from flux.model import GB_TIMEZONE
    from flux.store import market

    start, end = span(since, until)
    then = None if as_of is None else moment(as_of, _now(), "--as-of")

    async def work(conn: Any) -> "tuple[list[DataType], list[MarketValue]]":
        kinds = [await market.data_type(conn, one) for one in type] if type else await market.data_types(conn)
        wanted = [kind.id for kind in kinds]
        return kinds, await market.market_values(conn, wanted, start, end, as_of=then, site=site)

    kinds, values = run_on_database(work)
    panels = _panels(kinds, values, end)
    if not panels:
        raise InputError("no values in that span: `flux market list` shows what there is")
    known = "" if then is None else f", as known on {then:%-d %B %Y %H:%M} UTC"
    title = f"{start.astimezone(GB_TIMEZONE):%-d %B %Y} to {end.astimezone(GB_TIMEZONE):%-d %B %Y}{known}"
    _write(output, draw_series(panels, start, end, GB_TIMEZONE, title))
    typer.echo(f"{output}: {len(values):,} values")


@app.command()
def correlate(
    since: Since = "30d",
    until: Until = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Name or id of a battery; repeatable; all if not given.")
    ] = None,
    price: Annotated[str, typer.Option(help="The type that counts as price.")] = "imbalance_price",
    niv: Annotated[str, typer.Option(help="The type that counts as imbalance.")] = "niv_estimate",
    as_then: Annotated[bool, typer.Option("--as-then", help="Values as they were known at each reading.")] = False,
    output: Annotated[
        Path | None, typer.Option("--plot", help="Draw power against price and NIV: an SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How battery power, and each command source, went with price and NIV.

    Power is the target power, + discharge; prices are £/MWh, `paid` and `got` weighed by the energy that went in and
    out; r is Pearson's coefficient; `short` is the share of time in which the system was short.

    Example: `flux market correlate --from 2024-01-01 --to 2024-02-01 --as-then --plot january.svg`
    """
    from flux.registry import get_device
    from flux.store import correlate as store
    from flux.store import market

    start, end = span(since, until)

    async def work(conn: Any) -> "tuple[list[Correlation], list[dict[str, Any]]]":
        devices = None if not device else [(await get_device(conn, name)).id for name in device]
        types = {
            "price_type": (await market.data_type(conn, price)).id,
            "niv_type": (await market.data_type(conn, niv)).id,
        }
        found = await store.correlate(conn, start, end, devices=devices, as_then=as_then, **types)
        points = await store.points(conn, start, end, devices=devices, as_then=as_then, **types) if output else []
        return found, points

    found, points = run_on_database(work)
    if output is not None:
        _write(output, _clouds(points, price, niv, start, end))
    _print(
        [_correlation(one, as_json) for one in found], as_json, None, nothing="no readings of batteries in that span"
    )


def _row(kind: "MarketType", value: "Value") -> dict[str, Any]:
    return {
        "time": value.time,
        "type": kind.name,
        "site": value.site,
        "value": value.value,
        "unit": kind.unit,
        "known_at": value.known_at,
        "metadata": value.metadata,
    }


def _panels(kinds: "list[DataType]", values: "list[MarketValue]", end: datetime) -> list[Any]:
    """A panel for each unit; a value holds as long as its type says, a gap stays a gap."""
    from flux.charts import Line, Panel
    from flux.charts.parts import COLOURS

    panels: dict[str, list[Line]] = {}
    for kind in kinds:
        own = [value for value in values if value.type == kind.id]
        points: list[tuple[datetime, float | None]] = []
        for value, following in zip(own, [one.time for one in own[1:]] + [end] * bool(own), strict=True):
            points.append((value.time, value.value))
            if value.time + kind.holds < following:
                points.append((value.time + kind.holds, None))
        if points:
            number = sum(len(lines) for lines in panels.values())
            panels.setdefault(kind.unit, []).append(Line(kind.name, COLOURS[number % len(COLOURS)], points))
    return [Panel(unit, lines) for unit, lines in panels.items()]


def _clouds(points: list[dict[str, Any]], price: str, niv: str, start: datetime, end: datetime) -> str:
    from flux.charts import Cloud, draw_clouds

    clouds = [
        Cloud(f"{label} {name}", "target power, kW (+ discharge)", [
            (point[key], point["power"], _source(point["command_source"])) for point in points if point[key] is not None
        ])
        for key, name, label in (("price", price, "£/MWh"), ("niv", niv, "MW"))
    ]  # fmt: skip
    return draw_clouds(clouds, f"Power, price and imbalance, {start:%-d %B %Y} to {end:%-d %B %Y}")


def _correlation(one: "Correlation", exact: bool) -> dict[str, Any]:
    from dataclasses import asdict

    if exact:
        return {**asdict(one), "source": "all" if one.every_source else _source(one.command_source)}
    return {
        "device": one.device,
        "source": "all" if one.every_source else _source(one.command_source),
        "hours": one.hours,
        "out_kWh": one.discharged_kwh,
        "in_kWh": one.charged_kwh,
        "got": one.discharge_price,
        "paid": one.charge_price,
        "price": one.mean_price,
        "r_price": one.power_price_corr,
        "r_NIV": one.power_niv_corr,
        "short_%": None if one.share_short is None else 100 * one.share_short,
    }


def _source(code: int | None) -> str:
    from flux.model import CommandSource

    if code is None:
        return "unknown"
    return CommandSource(code).name.lower().replace("_", " ") if code in set(CommandSource) else str(code)


def _write(output: Path, text: str) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}") from None


def _print(
    rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...] | None, nothing: str = "no market data"
) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(rows, default=_plain, ensure_ascii=False, indent=2))
    elif rows:
        shown = [{key: _short(value) for key, value in row.items()} for row in rows]
        print_table(shown, columns)
    else:
        typer.echo(nothing)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    import csv
    import json
    import sys

    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if k == "metadata" else _plain(v) for k, v in row.items()} for row in rows)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _short(value: Any) -> Any:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
