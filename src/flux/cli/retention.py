"""``flux db retention``: how long what is kept, what goes next, and making it go."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flux.cli.shared import print_table, run_on_database

app = typer.Typer(help="How long each table is kept; what goes next.", invoke_without_command=True)


@app.callback()
def retention(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what a run would drop now; change nothing.")] = False,
) -> None:
    """How long each table is kept, and when its oldest piece goes.

    Example: `flux db retention --dry-run`
    """
    from flux.errors import InputError

    if context.invoked_subcommand is not None:
        if dry_run:
            raise InputError("--dry-run goes without a subcommand: flux db retention --dry-run")
        return
    if dry_run:
        _print_plan()
        return
    from flux.store.lifecycle import FOREVER, storage_status

    series = run_on_database(storage_status)
    print_table(
        [
            {
                "table": s.table_name,
                "kept": s.keep or FOREVER,
                "archive_first": "yes" if s.archive else "",
                "oldest": s.oldest,
                "next_drop": s.next_drop,
                "waits": s.held_by or "",
            }
            for s in series
        ]
    )


@app.command()
def run(
    archive: Annotated[
        Path | None,
        typer.Option(help="Folder for the Parquet files of tables that are archived first (default: FLUX_ARCHIVE)."),
    ] = None,
) -> None:
    """Drop now what is past its time. `flux worker` and `flux up` do it every hour.

    Example: `flux db retention run`
    """
    from flux.config import load_settings
    from flux.errors import InputError
    from flux.store.lifecycle import RetentionReport, run_retention

    folder = archive or load_settings().archive
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")

    async def work(conn: Any) -> RetentionReport:
        return await run_retention(conn, archive=folder)

    report: RetentionReport = run_on_database(work)
    for piece in report.dropped:
        typer.echo(f"dropped {_named(piece)}, {piece.bytes / 1e6:.1f} MB")
    for piece in report.held:
        typer.echo(f"kept {_named(piece)}: {piece.held_by}")
    if report.rows:
        typer.echo(f"deleted {report.rows:,} rows of refused readings and decisions")
    if not (report.dropped or report.held or report.rows):
        typer.echo("nothing is past its time")


@app.command(name="set")
def set_keep(
    table: Annotated[str, typer.Argument(help="One of `flux db retention`.")],
    keep: Annotated[str, typer.Argument(help='How long: 90d, "18 months", 5y, or forever.')],
    archive: Annotated[
        bool | None,
        typer.Option("--archive/--no-archive", help="Write readings to Parquet before they go."),
    ] = None,
) -> None:
    """Set how long a table is kept. Rollups are kept as long as what they are made from, or longer.

    Example: `flux db retention set mg_meter_readings 180d --archive`
    """
    from flux.store.lifecycle import FOREVER, set_retention

    async def work(conn: Any) -> str | None:
        return await set_retention(conn, table, keep, archive)

    typer.echo(f"{table}: kept {run_on_database(work) or FOREVER}")


def kept_status(dsn: str) -> dict[str, Any]:
    """What the database keeps, how far the rollups are behind, as JSON can hold it."""
    import asyncio
    import dataclasses

    from flux.store.db import connect
    from flux.store.lifecycle import storage_status
    from flux.store.rollups import lag

    async def asked() -> dict[str, Any]:
        async with await connect(dsn, application_name="flux cli", autocommit=True) as conn:
            series = [dataclasses.asdict(s) for s in await storage_status(conn)]
            behind = await lag(conn)
        seconds = None if behind is None else behind.age.total_seconds()
        return {"tables": series, "rollups_behind": behind and behind.changes, "rollups_behind_s": seconds}

    return asyncio.run(asked())


def print_kept(kept: dict[str, Any]) -> None:
    """The tables with their sizes, and the rollups' lag."""
    print_table(
        [
            {
                "table": s["table_name"],
                "kept_as": s["engine"],
                "size": f"{s['bytes'] / 1e6:.1f} MB",
                "pieces": s["pieces"],
                "compressed": "" if s["ratio"] is None else f"{s['compressed']}, {s['ratio']:.1f} times smaller",
                "oldest": s["oldest"],
                "next_drop": s["next_drop"],
                "waits": s["held_by"] or "",
            }
            for s in kept["tables"]
        ]
    )
    if kept["rollups_behind"]:
        typer.echo(f"rollups: {kept['rollups_behind']} changes behind, the oldest for {kept['rollups_behind_s']:.0f} s")
    else:
        typer.echo("rollups: everything stored is in them")


def _print_plan() -> None:
    from flux.store.lifecycle import due_pieces

    pieces = run_on_database(due_pieces)
    if not pieces:
        typer.echo("nothing is past its time")
    for piece in pieces:
        size = f"{piece.bytes / 1e6:.1f} MB"
        typer.echo(f"{_named(piece)}, {size}: {'stays, ' + piece.held_by if piece.held_by else 'goes'}")


def _named(piece: Any) -> str:
    return f"{piece.table_name} {piece.from_time:%Y-%m-%d} … {piece.to_time:%Y-%m-%d}"
