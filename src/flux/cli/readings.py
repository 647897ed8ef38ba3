"""``flux readings`` and ``flux rollups``: reading back what was recorded."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from flux.cli.platform import platform
from flux.cli.shared import print_table, run_on_database

if TYPE_CHECKING:
    from flux.cli.platform import Platform
    from flux.store.queries import RollupLevel
    from flux.store.rejected import RejectedReading


class _DeviceFirst(TyperGroup):
    """``flux readings WLCE-BESS-01 …`` means ``flux readings list --device WLCE-BESS-01 …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["list", "--device", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DeviceFirst,
    no_args_is_help=True,
    help="What was polled.\n\n`flux readings WLCE-BESS-01 --last 10` is short for "
    "`flux readings list --device WLCE-BESS-01 --last 10`.",
)
rollups_app = typer.Typer(subcommand_metavar="")

Since = Annotated[str | None, typer.Option(help="From then on: 90s, 2h, 7d ago, or a time like 2026-01-15T12:00Z.")]
Until = Annotated[str | None, typer.Option(help="Until then, not included; written like --since.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array, every column.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, every column.")]

_METER_COLUMNS = ("power_total_active", "frequency", "voltage_line_average", "power_factor_total")
_COUNTER_COLUMNS = ("energy_imported_active", "energy_exported_active")
_MOST_ROWS = 1_000_000


@app.command("list")
def list_(
    device: Annotated[str, typer.Option(help="Name or id of the device.")],
    since: Since = None,
    until: Until = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest so many; 20 if no --since is given.")] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    wide: Annotated[bool, typer.Option("--wide", help="Every column in the table, too.")] = False,
) -> None:
    """List the readings of a device, oldest first. Times are UTC; powers kW, energy kWh.

    Example: `flux readings WLCE-BESS-01 --since 1h`

    Example: `flux readings list --device WLCE-GRID-METER --since 2026-01-15 --until 2026-01-16 --csv > day.csv`
    """
    from datetime import timedelta

    from flux.store.ingest import OLDEST

    now = _now()
    first = _instant(since, now, "--since") if since else OLDEST
    end = _instant(until, now, "--until") if until else now + timedelta(days=1)
    limit = last or (_MOST_ROWS if since else 20)

    with platform() as there:
        rows = readings_of(there, device, first, end, limit)
    _print(rows, as_json, as_csv, shown=None if wide else _main_columns, nothing="no readings in that span")


@app.command()
def latest(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show the newest reading of every device.

    Example: `flux readings latest --site WLCE`
    """
    from flux.api.typed import readings

    with platform() as there:
        rows = there.call(readings.latest_readings, site=site)
    _print(_same_columns(rows), as_json, as_csv, shown=_latest_columns, nothing="no devices")


@app.command()
def rejected(
    retry: Annotated[bool, typer.Option("--retry", help="Try to store them again (all, or those of --id).")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Put conflicts of --id in place of what is stored.")] = False,
    id: Annotated[list[int] | None, typer.Option("--id", help="Only this one; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the readings that were refused, and why; try them again or accept them.

    Example: `flux readings rejected`, then `flux readings rejected --accept --id 17`
    """
    from flux.errors import InputError
    from flux.store.rejected import accept_rejected, list_rejected, retry_rejected

    if retry and accept:
        raise InputError("--retry or --accept, not both")
    if accept and not id:
        raise InputError("--accept replaces stored readings: name each with --id")
    if accept:
        count = run_on_database(lambda conn: accept_rejected(conn, id or []))
        typer.echo(f"accepted {count}")
    elif retry:
        result = run_on_database(lambda conn: retry_rejected(conn, id))
        typer.echo(f"stored {result.stored}, stored before {result.duplicates}, still refused {result.rejected}")
    else:
        _print_rejected(run_on_database(lambda conn: list_rejected(conn, ids=id, limit=limit)), as_json)


@rollups_app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
def rollups(
    device: Annotated[str, typer.Argument(help="Name or id of the device.")],
    level: Annotated[str, typer.Option(help="5m, 30m or 1h.")] = "5m",
    since: Since = "24h",
    until: Until = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    wide: Annotated[bool, typer.Option("--wide", help="Every column in the table, too.")] = False,
) -> None:
    """Show the buckets of a device: `time_b` is a bucket's start (UTC), a counter's `…_delta` what it counted in it.

    Example: `flux rollups WLCE-GRID-METER --level 30m --since 7d --csv`
    """
    from flux.store import queries

    checked = queries.check_level(level)
    now = _now()
    first = _instant(since or "24h", now, "--since")
    end = _instant(until, now, "--until") if until else now

    with platform() as there:
        rows = rollups_of(there, device, checked, first, end)
    shown = None if wide else _rollup_columns
    _print(rows, as_json, as_csv, shown=shown, nothing="no buckets in that span")


def readings_of(there: "Platform", device: str, start: datetime, end: datetime, limit: int) -> list[dict[str, Any]]:
    """The newest ``limit`` readings of [start, end), oldest first; in pages, the newest first, where it gives no more.

    A reading that comes in meanwhile, earlier than the page that was read, is in a later one.
    """
    from flux.api.typed import readings

    rows: list[dict[str, Any]] = []
    while len(rows) < limit:
        wanted = limit - len(rows)
        size = wanted if there.page_rows is None else min(wanted, there.page_rows)
        page = there.call(readings.device_readings, name=device, start=start, end=end, limit=size)
        rows = page + rows
        if len(page) < size or page[0]["time"] <= start:
            break
        end = page[0]["time"]
    return rows


def rollups_of(
    there: "Platform", device: str, level: "RollupLevel", start: datetime, end: datetime
) -> list[dict[str, Any]]:
    """The buckets of [start, end), oldest first; span by span where it gives no longer one."""
    from datetime import timedelta

    from flux.api.typed import readings

    days = there.page_days.get(level)
    rows: list[dict[str, Any]] = []
    while True:
        until = end if days is None else min(end, start + timedelta(days=days))
        page: list[dict[str, Any]] = there.call(
            readings.device_rollups, name=device, level=level, start=start, end=until
        )
        rows += page
        if until >= end:
            return rows
        start = until


def _now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)


def _instant(text: str, now: datetime, option: str) -> datetime:
    """``2h`` → two hours before ``now``; ``2026-01-15`` → that midnight; a time without a zone is UTC."""
    from datetime import UTC

    from flux.errors import InputError
    from flux.model import parse_duration

    try:
        return now - parse_duration(text.removesuffix("ago"))
    except (ValueError, OverflowError):
        pass
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} {text!r}: write it like 90s, 2h, 7d or 2026-01-15T12:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _main_columns(columns: list[str]) -> list[str]:
    """Of a meter what matters most; of a battery everything."""
    main = [column for column in columns if column in {"time", *_METER_COLUMNS, *_COUNTER_COLUMNS}]
    return main if len(main) > 1 else [column for column in columns if column != "device"]


def _latest_columns(columns: list[str]) -> list[str]:
    wanted = ("site", "device", "type", "time", "age_s", "soe", "target_power", *_METER_COLUMNS[:1], *_COUNTER_COLUMNS)
    return [column for column in wanted if column in columns]


def _rollup_columns(columns: list[str]) -> list[str]:
    deltas = {f"{name}_delta" for name in _COUNTER_COLUMNS}
    levels = {f"{name}_{part}" for name in ("power_total_active", "soe") for part in ("avg", "min", "max")}
    wanted = {"time_b", "samples", *deltas, *levels}
    shown = [column for column in columns if column in wanted]
    return shown if len(shown) > 2 else columns


def _same_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of batteries and meters in one table: each with all columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def _print(
    rows: list[dict[str, Any]],
    as_json: bool,
    as_csv: bool,
    *,
    shown: Callable[[list[str]], list[str]] | None,
    nothing: str,
) -> None:
    if as_json:
        import json

        typer.echo("[" + ",\n ".join(json.dumps(row, default=_plain) for row in rows) + "]")
    elif as_csv:
        _print_csv(rows)
    elif not rows:
        typer.echo(nothing)
    else:
        columns = list(rows[0])
        used = [c for c in columns if any(row[c] is not None for row in rows)]
        print_table(rows, shown(used) if shown else columns)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    import csv
    import sys

    if rows:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(["" if v is None else _plain(v) for v in row.values()] for row in rows)


def _print_rejected(rows: "list[RejectedReading]", as_json: bool) -> None:
    import dataclasses

    if as_json:
        _print([dataclasses.asdict(row) for row in rows], True, False, shown=None, nothing="")
        return
    if not rows:
        typer.echo("no readings wait: none was refused, or all were retried or accepted")
        return
    names = ("id", "received_at", "device", "time", "reason", "detail")
    table = [
        dict(
            zip(
                names, (r.id, r.received_at, r.device_name or str(r.device_id), r.time, r.reason, r.detail), strict=True
            )
        )
        for r in rows
    ]
    print_table(table, list(names))
    typer.echo(
        "`--retry` tries again what has been mended; `--accept --id N` puts a conflict in place of what is stored"
    )
