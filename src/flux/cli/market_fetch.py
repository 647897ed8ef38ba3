"""``flux market fetch`` and ``import``: values into the store, from platforms and files."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.shared import progress_bar, run_on_database
from flux.cli.spans import span
from flux.errors import ConflictError, InputError

if TYPE_CHECKING:
    from flux.market import MarketSource
    from flux.market.axle import DispatchStep
    from flux.market.http import MarketHttp
    from flux.model import MarketValue
    from flux.store.market import UpsertResult

_PIECE = timedelta(days=7)


def fetch(
    source: Annotated[str, typer.Argument(help="elexon, modo or axle.")],
    since: Annotated[
        str, typer.Option("--from", "--since", help="From then on: 2d ago, 2024-01-01 (GB day), a time.")
    ] = "2d",
    until: Annotated[str | None, typer.Option("--to", "--until", help="Until then; now if not given.")] = None,
    known_after: Annotated[
        str | None,
        typer.Option(help="Take each value as known so long after its time, e.g. 45m, in place of what is stated."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="axle: whose schedule it is.")] = None,
    asset: Annotated[str | None, typer.Option(help="axle: the asset's id there.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Another address of the platform.")] = None,
) -> None:
    """Fetch from a platform now, or a span of history. What is stored already is not stored again.

    `elexon` is public; `modo` reads MODO_API_TOKEN, `axle` AXLE_USERNAME and AXLE_PASSWORD from the environment. To
    keep data fresh let `flux worker` do it: see docs/market.md.

    Example: `flux market fetch elexon --from 2024-01-01 --to 2024-02-01`

    Example: `flux market fetch axle --site WLCE --asset 3f9c2a`
    """
    if source == "axle":
        _fetch_axle(site, asset, base_url)
        return
    if source not in ("elexon", "modo"):
        raise InputError(f"source {source!r}: one of elexon, modo, axle")
    start, end = span(since, until)
    delay = _duration(known_after, "--known-after")

    async def work(conn: Any) -> "UpsertResult":
        async with _source(source, base_url) as client:
            return await _backfill(conn, client, start, end, delay)

    _tell(run_on_database(work))


def import_(
    file: Annotated[Path, typer.Argument(help="CSV with a line of headings.")],
    type: Annotated[str, typer.Option(help="Name or number of a type; see `flux market types list`.")],
    value: Annotated[str | None, typer.Option(help="The value's column; the first of a usual name.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="Its unit, where not the type's: p/kWh, £/kWh, MWh/half hour …")
    ] = None,
    time: Annotated[str | None, typer.Option(help="The time's column; the first of a usual name.")] = None,
    zone: Annotated[str | None, typer.Option(help="Zone of times without an offset, e.g. Europe/London.")] = None,
    day: Annotated[str | None, typer.Option(help="In place of --time: the settlement date's column …")] = None,
    period: Annotated[str | None, typer.Option(help="… and the settlement period's.")] = None,
    known_at: Annotated[str | None, typer.Option(help="The column that says since when a value was known.")] = None,
    known_after: Annotated[
        str | None, typer.Option(help="Known so long after its time, e.g. 20m; since now if neither is given.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Values of this site only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check, store nothing.")] = False,
) -> None:
    """Import values from a CSV file; all of it is checked before any is stored.

    Example: `flux market import price.csv --type imbalance_price --time spUTCTime --unit p/kWh --known-after 20m`
    """
    from flux.market.csvfile import Mapping, read_csv
    from flux.store import market

    if (day is None) != (period is None):
        raise InputError("--day and --period go together")
    delay, timezone = _duration(known_after, "--known-after"), _zone(zone)

    async def work(conn: Any) -> "tuple[list[MarketValue], UpsertResult | None]":
        kind = await market.data_type(conn, type)
        mapping = Mapping(
            type=kind.id, unit=kind.unit, value=value, value_unit=unit, time=time, day=day, period=period,
            zone=timezone, known_at=known_at, delay=delay, site=site, metadata={"source": file.name},
        )  # fmt: skip
        values = read_csv(file, mapping)
        return values, None if dry_run else await market.upsert(conn, values)

    values, result = run_on_database(work)
    if values:
        times = [one.time for one in values]
        low, high = min(one.value for one in values), max(one.value for one in values)
        about = f"{min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} UTC"
        typer.echo(f"{file}: {len(values):,} values from {low:g} to {high:g}, {about}")
    if result is None:
        typer.echo("nothing was stored (--dry-run)")
    else:
        _tell(result)


async def _backfill(
    conn: Any, source: "MarketSource", start: datetime, end: datetime, delay: timedelta | None
) -> "UpsertResult":
    """A week at a time: what is fetched is stored, whatever comes after it."""
    from dataclasses import replace

    from flux.store.market import UpsertResult, upsert

    total, at = UpsertResult(0, 0, 0), start
    with progress_bar(source.name, round((end - start).total_seconds())) as shown:
        while at < end:
            until = min(at + _PIECE, end)
            values = await source.fetch(at, until)
            if delay is not None:
                values = [
                    replace(one, known_at=one.time + delay, metadata={**one.metadata, "known_at": "assumed"})
                    for one in values
                ]
            total += await upsert(conn, values)
            at = until
            shown(round((at - start).total_seconds()), total.given)
    return total


@asynccontextmanager
async def _http(name: str, url: str, manners: Any) -> "AsyncIterator[MarketHttp]":
    import httpx

    from flux.market.http import MarketHttp

    async with httpx.AsyncClient() as client:
        yield MarketHttp(name, url, client, manners)


@asynccontextmanager
async def _source(name: str, base_url: str | None) -> "AsyncIterator[MarketSource]":
    from flux.market import elexon, modo
    from flux.market.config import secrets

    if name == "elexon":
        async with _http(name, base_url or elexon.BASE_URL, elexon.MANNERS) as http:
            yield elexon.Elexon(http, _utc_now)
        return
    token = secrets(["MODO_API_TOKEN"], os.environ)["MODO_API_TOKEN"]
    async with _http(name, base_url or modo.BASE_URL, modo.MANNERS) as http:
        yield modo.Modo(http, token)


def _fetch_axle(site: str | None, asset: str | None, base_url: str | None) -> None:
    from flux.local.market_jobs import store_schedule
    from flux.market import axle
    from flux.market.config import secrets

    if site is None or asset is None:
        raise InputError("axle: say whose schedule with --site and --asset")
    known = secrets(["AXLE_USERNAME", "AXLE_PASSWORD"], os.environ)

    async def work(conn: Any) -> "list[DispatchStep]":
        async with _http("axle", base_url or axle.BASE_URL, axle.MANNERS) as http:
            client = axle.Axle(http, asset, known["AXLE_USERNAME"], known["AXLE_PASSWORD"], _utc_now)
            steps = await client.schedule()
        await store_schedule(conn, site, steps)
        return steps

    for step in run_on_database(work):
        typer.echo(f"{step.start:%Y-%m-%d %H:%M} to {step.end:%Y-%m-%d %H:%M} UTC  {step.action}")


def _tell(result: "UpsertResult") -> None:
    typer.echo(f"{result.given:,} values, {result.written:,} new or changed")
    if result.conflicts:
        raise ConflictError(
            f"{result.conflicts:,} were left out: another value is stored as known at the very same time, and history "
            f"is not rewritten; without --known-after and --known-at they count as known since now"
        )


def _duration(text: str | None, option: str) -> timedelta | None:
    from flux.model import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def _zone(name: str | None) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--zone {name!r}: not a time zone; write it like Europe/London") from None


def _utc_now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)
