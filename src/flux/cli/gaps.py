"""``flux gaps``: where readings are missing, and filling that in late."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import platform
from flux.cli.readings import _instant, _now
from flux.cli.shared import print_table, run_on_database
from flux.cli.transfer import Force, IgnoreUnknown, Rejects, Timezone, print_report, run_import, zone_named

if TYPE_CHECKING:
    from flux.store.gaps import FilledGap, Gap
    from flux.store.transfer import ImportReport

app = typer.Typer(subcommand_metavar="[fill …]")

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array, with every counter.")]
_SHOWN = ("energy_imported_active", "energy_exported_active")


@app.callback(invoke_without_command=True)
def list_gaps(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(help="Meters of this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this one: name or id.")] = None,
    since: Annotated[str, typer.Option(help="From then on: 90s, 2h, 7d ago, or a time.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Until then; written like --since.")] = None,
    as_json: AsJson = False,
) -> None:
    """List where readings of meters are missing, with the energy that was counted meanwhile (kWh).

    `split`: longer than the gap limit (24 h, or `gap_limit` in the device's metadata); its energy is in no bucket.
    `interpolated`: shorter; its energy is shared out among buckets with `samples` = 0.

    Example: `flux gaps --site WLCE --since 90d`
    """
    if context.invoked_subcommand is not None:
        return
    from flux.api.typed import quality

    now = _now()
    first = _instant(since, now, "--since")
    end = _instant(until, now, "--until") if until else now + timedelta(days=1)
    with platform() as there:
        answer = there.call(quality.list_gaps, site=site, device=device, start=first, end=end)
    found = answer.gaps
    if answer.rollups_behind:
        typer.echo(
            "readings have come that are not in the rollups yet; a worker (`flux up`, `flux worker`) brings them in",
            err=True,
        )
    if as_json:
        _print_json([_gap_json(gap) for gap in found])
        return
    if not found:
        typer.echo(f"no gaps since {first:%Y-%m-%d %H:%M} UTC")
        return
    print_table([_row(gap) for gap in found])
    for kind, where in (("split", "in no bucket"), ("interpolated", "in buckets with samples = 0")):
        these = [gap for gap in found if gap.kind == kind]
        if these:
            imported, exported = (sum(gap.energy.get(name, 0.0) for gap in these) for name in _SHOWN)
            typer.echo(f"{kind} {len(these)}: imported {imported:,.2f} kWh, exported {exported:,.2f} kWh, {where}")


@app.command()
def fill(
    file: Annotated[Path, typer.Option("--from", help="CSV (also gzip) or Parquet, as `flux readings import`.")],
    site: Annotated[str | None, typer.Option(help="Tell of gaps of this site only.")] = None,
    device: Annotated[str | None, typer.Option(help="Name or id, for a file that has no device column.")] = None,
    timezone: Timezone = None,
    rejects: Rejects = None,
    ignore_unknown: IgnoreUnknown = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Import readings that come late, refresh the rollups, and tell what became of the gaps they reach into.

    Example: `flux gaps fill --from other-logger.csv --device WLCE-GRID-METER --timezone Europe/London`
    """
    from flux.api.typed.quality import meters_of
    from flux.store import gaps, rollups
    from flux.store.ingest import OLDEST

    zone = zone_named(timezone)
    end = _now() + timedelta(days=1)

    async def work(conn: Any) -> "tuple[ImportReport, list[FilledGap]]":
        await rollups.refresh(conn)
        before = await gaps.list_gaps(conn, await meters_of(conn, site, device), OLDEST, end)
        report = await run_import(
            conn, file, device=device, zone=zone, rejects=rejects, ignore_unknown=ignore_unknown, force=force
        )
        await rollups.refresh(conn)
        after = await gaps.list_gaps(conn, list(report.spans), OLDEST, end)
        return report, gaps.compare(before, after, report.spans)

    report, filled = run_on_database(work)
    print_report(file, report, rejects, err=as_json)
    if as_json:
        _print_json([_filled_json(one) for one in filled])
    elif filled:
        print_table([_filled_row(one) for one in filled])
    else:
        typer.echo("none of the readings lies in a gap")
    if report.rejected:
        raise typer.Exit(1)


def _row(gap: "Gap") -> dict[str, Any]:
    from flux.model import format_duration

    head = {"device": gap.device, "kind": str(gap.kind), "from": gap.from_time, "to": gap.to_time}
    energy = {name: gap.energy.get(name) for name in _SHOWN}
    return {**head, "length": format_duration(_to_seconds(gap.length)), **energy}


def _filled_row(one: "FilledGap") -> dict[str, Any]:
    from flux.model import format_duration

    became = "filled" if not one.left else "unchanged" if one.left == (one.before,) else "smaller"
    left = {f"{name}_left": sum(gap.energy.get(name, 0.0) for gap in one.left) for name in _SHOWN}
    missing = format_duration(_to_seconds(one.missing))
    return {**_row(one.before), "became": became, "still_missing": missing, **left}


def _to_seconds(length: timedelta) -> timedelta:
    return timedelta(seconds=round(length.total_seconds()))


def _gap_json(gap: "Gap") -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(gap) | {"length_s": gap.length.total_seconds()}


def _filled_json(one: "FilledGap") -> dict[str, Any]:
    missing = one.missing.total_seconds()
    return {"before": _gap_json(one.before), "after": [_gap_json(gap) for gap in one.left], "still_missing_s": missing}


def _print_json(rows: list[dict[str, Any]]) -> None:
    import json

    def plain(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    typer.echo("[" + ",\n ".join(json.dumps(row, default=plain) for row in rows) + "]")
