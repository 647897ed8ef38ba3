"""The demo's backfill on a real database, cut off and continued."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import fetch

from flux.control.explain import explain
from flux.devices.simulator import demo_site
from flux.local.demo import Backfill, DemoFiles, register_devices, write_site_file
from flux.registry import get_device, list_devices
from flux.store.decisions import LedgerSpan, decision_at, decisions_of_site

NOW = datetime(2026, 1, 15, 12, 34, 56, tzinfo=UTC)
CONFIG = demo_site()


class CutOffError(Exception):
    """Stands for a process that was killed."""


async def backfill(conn: AsyncConnection[Any], files: DemoFiles, cut_off_after: timedelta | None = None) -> int:
    def progress(start: datetime, _end: datetime, done: datetime) -> None:
        if cut_off_after is not None and done - start >= cut_off_after:
            raise CutOffError

    work = Backfill(files, CONFIG, 1, lambda: NOW)
    assert work.needed
    plan = write_site_file(files).config.controller
    return await work.run(conn, await list_devices(conn), plan, progress)


async def counts(conn: AsyncConnection[Any]) -> tuple[Any, ...]:
    (row,) = await fetch(
        conn,
        "SELECT (SELECT count(*) FROM flux.mg_meter_readings), (SELECT count(*) FROM flux.mg_bess_readings),"
        " (SELECT count(*) FROM flux.rejected_readings)",
    )
    return row


async def test_a_day_is_made_up_to_the_last_full_minute(db: AsyncConnection[Any], tmp_path: Path) -> None:
    await register_devices(db, CONFIG)
    files = DemoFiles(tmp_path)
    await backfill(db, files)
    assert await counts(db) == (4 * 1440, 1440, 0)
    ((first, last),) = await fetch(db, "SELECT min(time), max(time) FROM flux.mg_bess_readings")
    assert last == NOW.replace(second=0)
    assert first == last - timedelta(minutes=1439)
    assert not Backfill(files, CONFIG, 1, lambda: NOW).needed
    await the_market_is_made_up_for_its_site_alone(db)
    await the_ledger_tells_what_came_of_it(db)


async def the_market_is_made_up_for_its_site_alone(db: AsyncConnection[Any]) -> None:
    values = await fetch(
        db,
        'SELECT type, count(*), min(site), max(site), bool_and(metadata @> \'{"source": "simulated"}\'),'
        " min(time), max(time) FROM flux.market_data GROUP BY type ORDER BY type",
    )
    first, last = datetime(2026, 1, 14, 13, 0, tzinfo=UTC), datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
    assert values == [(kind, 48, "WLCE", "WLCE", True, first, last) for kind in (1, 3)]


async def the_ledger_tells_what_came_of_it(db: AsyncConnection[Any]) -> None:
    modes = dict(await fetch(db, "SELECT effective, count(*) FROM flux.control_decisions GROUP BY effective"))
    assert modes["niv_chase"] > 50
    assert await fetch(db, "SELECT count(*) FROM flux.rejected_decisions") == [(0,)]
    (row,) = await decisions_of_site(db, "WLCE", LedgerSpan(NOW - timedelta(minutes=5), NOW), limit=1)
    found = await decision_at(db, await get_device(db, "WLCE-BESS-01"), row["time"])
    assert found is not None
    assert explain(found).same


async def test_one_that_was_cut_off_goes_on_without_losing_or_repeating(
    db: AsyncConnection[Any], tmp_path: Path
) -> None:
    await register_devices(db, CONFIG)
    files = DemoFiles(tmp_path)
    for hours in (8, 15):  # in the middle of the second and of the third piece
        with pytest.raises(CutOffError):
            await backfill(db, files, timedelta(hours=hours))
    await backfill(db, files)
    assert await counts(db) == (4 * 1440, 1440, 0)
    falls = await fetch(
        db,
        "SELECT count(*) FROM (SELECT energy_imported_active - lag(energy_imported_active)"
        " OVER (PARTITION BY device_id ORDER BY time) AS step FROM flux.mg_meter_readings) s WHERE step < 0",
    )
    assert falls == [(0,)]


async def test_devices_are_registered_once_and_follow_a_change_of_port(db: AsyncConnection[Any]) -> None:
    first = await register_devices(db, CONFIG)
    moved = await register_devices(db, demo_site(port=16020))
    assert [device.id for device in moved] == [device.id for device in first]
    assert sorted(device.metadata.port for device in moved) == list(range(16020, 16025))
