"""``flux market export`` and ``load``: everything that was known, to a file and back."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from flux.cli.platform import platform
from flux.cli.readings import _instant, _now
from flux.cli.shared import progress_bar
from flux.cli.transfer import Force, Rejects, Timezone, print_report, teller, zone_named


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    type: Annotated[list[str] | None, typer.Option(help="Only this type: name or number; repeatable.")] = None,
    since: Annotated[str | None, typer.Option("--from", "--since", help="Values about then and later.")] = None,
    until: Annotated[str | None, typer.Option("--to", "--until", help="Values about a time before then.")] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Only the newest value of each, not what was known before.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="csv, csv.gz or parquet; by the file's ending if not given.")
    ] = None,
    force: Force = False,
) -> None:
    """Write market data with all that was known before to a CSV or Parquet file; `flux market load` reads it back.

    Example: `flux market export --type imbalance_price --from 2026-01-01 -o prices.parquet`
    """
    from flux.cli.transfer_ports import WantedMarket
    from flux.store import transfer

    now = _now()
    bounds = (_instant(since or "2000-01-01", now, "--from"), _instant(until or "2100-01-01", now, "--to"))
    wanted_format = transfer.format_of(output, format)
    wanted = WantedMarket(*bounds, tuple(type or ()), newest)
    with platform() as there:
        report = there.transfers.export_market(wanted, output, wanted_format, force=force)
    typer.echo(f"{output}: {report.rows:,} values, {report.bytes:,} bytes")


def load(
    file: Annotated[Path, typer.Argument(help="CSV (also gzip) or Parquet, as `flux market export` writes it.")],
    timezone: Timezone = None,
    rejects: Rejects = None,
    force: Force = False,
) -> None:
    """Store the values of an exported file. Doing it again changes nothing; exit code 1 if a row was rejected.

    Columns: time, type, value; and site, known_at, metadata where there are any. For other CSV there is
    `flux market import`.

    Example: `flux market load prices.parquet --rejects rejected.csv`
    """
    zone = zone_named(timezone)

    from flux.store import transfer

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(transfer.open_rows(file))
        rejected = teller(source)
        if rejects is not None:
            rejected = stack.enter_context(transfer.rejects_file(rejects, source.header, force=force))
        there = stack.enter_context(platform())
        shown = stack.enter_context(progress_bar(f"loading {file.name}", source.total))
        report = there.transfers.import_market(source, zone=zone, rejected=rejected, progress=shown)
    print_report(file, report, rejects, kept=None)
    if report.rejected:
        raise typer.Exit(1)
