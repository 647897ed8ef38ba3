"""``flux readings export`` and ``import``: readings to and from files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flux.cli.devices import _choice
from flux.cli.readings import _instant, _now
from flux.cli.shared import progress_bar, run_on_database

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

    from flux.errors import NotFoundError
    from flux.model import DeviceType
    from flux.registry import get_device
    from flux.store import transfer
    from flux.store.ingest import OLDEST

    now = _now()
    first = _instant(since, now, "--from") if since else OLDEST
    end = _instant(until, now, "--to") if until else now + timedelta(days=1)
    wanted_format = transfer.format_of(output, format)
    wanted_type = _choice(DeviceType, type, "--type")

    async def work(conn: Any) -> transfer.ExportReport:
        one = None if device is None else (await get_device(conn, device)).id
        devices = await transfer.exported_devices(conn, site=site, device_id=one, type=wanted_type)
        if not devices:
            raise NotFoundError("no device is meant by these options: `flux devices list` shows what there is")
        with progress_bar("exporting", len(devices)) as shown:
            return await transfer.export_readings(
                conn, output, devices, first, end, format=wanted_format, force=force, progress=shown
            )

    report = run_on_database(work)
    typer.echo(f"{output}: {report.rows:,} readings of {report.devices} devices, {report.bytes:,} bytes")
