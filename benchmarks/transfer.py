"""Export and import of readings of 25 metrics: rows/s, bytes per reading, and the most memory that the process had.

Each way runs in a process of its own, once with a tenth of the readings and once with all of them: memory that is
bounded is about the same in both.
"""

import asyncio
import multiprocessing
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.rollups import CLEAN, START, add_devices, fill
from psycopg.conninfo import make_conninfo

from flux.store.db import connect, connect_sync
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer
from flux.store.transfer import export_readings, exported_devices, format_of, import_readings, open_rows

DEVICES = 20
FORMATS = ("csv", "csv.gz", "parquet")


async def export_once(dsn: str, target: Path, minutes: int) -> int:
    async with await connect(dsn, autocommit=True) as conn:
        devices = await exported_devices(conn)
        span = (START, START + timedelta(minutes=minutes))
        return (await export_readings(conn, target, devices, *span, format=format_of(target), force=True)).rows


async def import_once(dsn: str, source: Path) -> int:
    async with await connect(dsn, autocommit=True) as conn:
        with open_rows(source) as rows:
            report = await import_readings(conn, rows, rejected=lambda _row: None, progress=lambda _done, _rows: None)
    assert report.stored == report.rows
    return report.rows


def measured(way: str, dsn: str, file: Path, minutes: int, told: Any) -> None:
    """In a process of its own: how many rows, seconds, CPU seconds, MiB at most."""
    began, cpu = time.perf_counter(), time.process_time()
    rows = asyncio.run(export_once(dsn, file, minutes) if way == "export" else import_once(dsn, file))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told.put((rows, time.perf_counter() - began, time.process_time() - cpu, peak))


def in_a_process(way: str, dsn: str, file: Path, minutes: int) -> tuple[int, float, float, float]:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=measured, args=(way, dsn, file, minutes, told))
    child.start()
    result: tuple[int, float, float, float] = told.get(timeout=900)
    child.join()
    return result


def fresh(server_dsn: str, name: str) -> str:
    """Another database with the same devices."""
    with connect_sync(server_dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    dsn = make_conninfo(server_dsn, dbname=name)
    migrate(dsn)
    with connect_sync(dsn, autocommit=True) as conn:
        add_devices(conn, DEVICES)
    return dsn


def report(way: str, dsn: str, file: Path, minutes: int) -> None:
    rows, seconds, cpu, peak = in_a_process(way, dsn, file, minutes)
    size = f"{file.stat().st_size / rows:.0f} bytes/reading"
    print(
        f"transfer: {way} {file.suffixes[-1][1:]}: {rows:,} rows, {rows / seconds:,.0f} rows/s "
        f"({cpu / rows * 1e6:.1f} µs CPU each), {size}, {peak:.0f} MiB at most",
        flush=True,
    )


def main(rows: int = 1_000_000) -> None:
    """Print a line for each way, format and size."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            minutes = rows // DEVICES
            with connect_sync(server.dsn, autocommit=True) as conn:
                add_devices(conn, DEVICES)
                span = (START, START + timedelta(minutes=minutes))
                conn.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", span)
                fill(conn, DEVICES, 0, minutes, CLEAN.counter)
            for ending in FORMATS:
                for part in (minutes // 10, minutes):
                    file = Path(folder) / f"{part}.{ending}"
                    report("export", server.dsn, file, part)
                    if ending != "csv.gz":
                        report("import", fresh(server.dsn, f"copy_{part}_{ending}"), file, part)


if __name__ == "__main__":
    main()
