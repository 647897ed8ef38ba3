"""``flux readings export`` and ``import``: readings to and from files."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux.cli.platform import platform
from flux.cli.readings import _instant, _now
from flux.cli.shared import choice, progress_bar

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from flux.store.transfer import ImportReport, RejectedRow, RowSource

Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def export_readings(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    site: Annotated[str | None, typer.Option(help="All devices of this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this one: name or id.")] = None,
    type: Annotated[str | None, typer.Option(help="Only bess or meter.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", "--since", help="From then on; all there is if not given.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", "--until", help="Until then, not included.")] = None,
    format: Annotated[
        str | None, typer.Option(help="csv, csv.gz or parquet; by the file's ending if not given.")
    ] = None,
    force: Force = False,
) -> None:
    """Write readings to a CSV or Parquet file: exact, streaming, the file appears when it is whole.

    Example: `flux readings export --site WLCE --from 2026-01-01 --to 2026-02-01 -o wlce-january.parquet`

    Example: `flux readings export --device WLCE-GRID-METER --from 7d -o week.csv.gz`
    """
    from datetime import timedelta

    from flux.cli.transfer_ports import WantedReadings
    from flux.model import DeviceType
    from flux.store import transfer
    from flux.store.ingest import OLDEST

    now = _now()
    first = _instant(since, now, "--from") if since else OLDEST
    end = _instant(until, now, "--to") if until else now + timedelta(days=1)
    wanted_format = transfer.format_of(output, format)
    wanted = WantedReadings(first, end, site, device, choice(DeviceType, type, "--type"))
    # how many devices it is of, the platform says when it is done
    with platform() as there, progress_bar("exporting", None) as shown:
        report = there.transfers.export_readings(wanted, output, wanted_format, force=force, progress=shown)
    devices = f"{report.devices} device{'s' if report.devices > 1 else ''}"
    typer.echo(f"{output}: {report.rows:,} readings of {devices}, {report.bytes:,} bytes")


Timezone = Annotated[str | None, typer.Option(help="IANA zone of times without an offset, e.g. Europe/London.")]
Rejects = Annotated[Path | None, typer.Option(help="Write rows that are not stored, with reasons, to this CSV.")]
IgnoreUnknown = Annotated[bool, typer.Option("--ignore-unknown", help="Pass over columns that are not known.")]

_SHOWN_REJECTS = 10


def import_readings(
    file: Annotated[Path, typer.Argument(help="CSV (also gzip) or Parquet.")],
    device: Annotated[str | None, typer.Option(help="Name or id, for a file that has no device column.")] = None,
    timezone: Timezone = None,
    rejects: Rejects = None,
    ignore_unknown: IgnoreUnknown = False,
    force: Force = False,
) -> None:
    """Store the readings of a file. Doing it again changes nothing; exit code 1 if a row was rejected.

    Columns: time (with an offset), device or device_id, and metrics, with a unit in brackets where it is another than
    Flux's. Empty or NaN: not measured. Conflicts with what is stored wait in `flux readings rejected`.

    Example: `flux readings import wlce-january.parquet --rejects rejected.csv`

    Example: `flux readings import logger.csv --device WLCE-GRID-METER --timezone Europe/London`
    """
    zone = zone_named(timezone)

    from flux.store import transfer

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(transfer.open_rows(file))
        rejected = teller(source)
        if rejects is not None:
            rejected = stack.enter_context(transfer.rejects_file(rejects, source.header, force=force))
        there = stack.enter_context(platform())
        shown = stack.enter_context(progress_bar(f"importing {file.name}", source.total))
        report = there.transfers.import_readings(
            source, device=device, zone=zone, ignore_unknown=ignore_unknown, rejected=rejected, progress=shown
        )
    print_report(file, report, rejects)
    if report.rejected:
        raise typer.Exit(1)


async def run_import(
    conn: Any,
    file: Path,
    *,
    device: str | None,
    zone: "ZoneInfo | None",
    rejects: Path | None,
    ignore_unknown: bool,
    force: bool,
) -> "ImportReport":
    """Import with a progress bar; rejected rows go to the file ``rejects``, the first ones to stderr without one."""
    from flux.registry import get_device
    from flux.store import transfer

    identity = None if device is None else (await get_device(conn, device)).id
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(transfer.open_rows(file))
        rejected = teller(source)
        if rejects is not None:
            rejected = stack.enter_context(transfer.rejects_file(rejects, source.header, force=force))
        shown = stack.enter_context(progress_bar(f"importing {file.name}", source.total))
        return await transfer.import_readings(
            conn,
            source,
            device=identity,
            zone=zone,
            ignore_unknown=ignore_unknown,
            rejected=rejected,
            progress=shown,
        )


def teller(source: "RowSource") -> Any:
    """Tells the first rejected rows on stderr."""
    from itertools import count

    numbers = count(1)

    def tell(row: "RejectedRow") -> None:
        if next(numbers) <= _SHOWN_REJECTS:
            typer.echo(f"{source.unit} {row.line}: {row.reason}: {row.detail}", err=True)

    return tell


def print_report(
    file: Path,
    report: "ImportReport",
    rejects: Path | None,
    *,
    err: bool = False,
    kept: str | None = "what could be kept waits in `flux readings rejected`",
) -> None:
    """One line, and one more where rows were rejected."""
    rejected = report.rejected.total()
    typer.echo(
        f"{file}: {report.rows:,} rows: stored {report.stored:,}, "
        f"stored before {report.duplicates:,}, rejected {rejected:,}",
        err=err,
    )
    if rejected:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.rejected.most_common())
        where = f"they are in {rejects}" if rejects else "--rejects FILE writes them to a file"
        typer.echo("; ".join(part for part in (f"rejected: {reasons}", where, kept) if part), err=err)


def zone_named(name: str | None) -> "ZoneInfo | None":
    """The time zone; InputError for one that there is not."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from flux.errors import InputError

    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--timezone {name!r}: not an IANA zone; write it like Europe/London") from None
