"""The server is killed in the middle of a refresh, at one of its tables after another: no bucket is half done."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb
from tests.conftest import SMALL
from tests.store.rollup_checks import check
from tests.store.rollup_reference import Limits
from tests.store.test_lifecycle import MONDAY, ROLLUPS, WEEK, fill

from flux.store.db import connect
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

STEPS = ("rollup_changes", "reading_marks", *ROLLUPS, "rollup_gaps", "counter_events")
"""A refresh writes to these, all devices in one batch: locked by somebody else, it stops there, nothing committed."""


@contextmanager
def running(home: Path) -> Iterator[tuple[EmbeddedServer, Connection[Any]]]:
    with EmbeddedServer(home, settings={**SMALL, "max_wal_senders": "0"}) as server:
        conn = psycopg.connect(server.dsn, autocommit=True)
        try:
            yield server, conn
        finally:
            conn.close()


def contents(conn: Connection[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """All that a refresh writes, row by row."""
    return {t: conn.execute(f"SELECT r::text FROM flux.{t} r ORDER BY 1").fetchall() for t in STEPS}


def change(conn: Connection[Any], meters: Sequence[UUID], round_: int) -> None:
    """Late readings, deletions and rulings, in all of the devices; each round others."""
    conn.execute(
        """INSERT INTO flux.mg_meter_readings (device_id, time, energy_imported_active, power_total_active)
           SELECT id, %s::timestamptz + i * interval '7 hours', 1e6 * (i %% 2), 1
           FROM flux.mg_device_registry, generate_series(1, 20) i
           WHERE type = 'meter' ON CONFLICT DO NOTHING""",
        [MONDAY + timedelta(minutes=round_)],
    )
    conn.execute(
        """INSERT INTO flux.mg_bess_readings (device_id, time, soe, target_power)
           SELECT id, %s, 50, 10 FROM flux.mg_device_registry WHERE type = 'bess'""",
        [MONDAY + timedelta(minutes=30 + round_)],
    )
    for meter in meters:
        day = MONDAY + timedelta(hours=7 * round_)
        conn.execute("SELECT flux.delete_readings(%s, %s, %s)", [meter, day, day + timedelta(hours=7)])
        conn.execute(
            """INSERT INTO flux.counter_rulings (device_id, counter, time, kind, step, decided_by)
               SELECT device_id, counter, time, 'step', 3.5, 'me' FROM flux.counter_events
               WHERE device_id = %s AND kind <> 'glitch' ORDER BY time OFFSET %s LIMIT 1 ON CONFLICT DO NOTHING""",
            [meter, round_],
        )


def refresh_until_killed(server: EmbeddedServer, table: str) -> None:
    """Kill the server while a refresh waits for this table."""
    assert server.pid is not None

    def refresh() -> None:
        with suppress(psycopg.OperationalError), psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("CALL flux.refresh_rollups()")

    blocked = "SELECT count(*) FROM pg_locks l WHERE NOT l.granted AND l.locktype = 'relation'"
    with suppress(psycopg.OperationalError), psycopg.connect(server.dsn) as conn:
        conn.execute(f"LOCK TABLE flux.{table} IN SHARE MODE")
        refreshing = threading.Thread(target=refresh)
        refreshing.start()
        while refreshing.is_alive() and conn.execute(blocked).fetchone() == (0,):
            refreshing.join(0.01)
        assert refreshing.is_alive(), f"the refresh never came to {table}"
        os.kill(server.pid, signal.SIGKILL)
        refreshing.join()


@pytest.mark.long
async def test_a_refresh_goes_on_wherever_the_server_was_killed(home: Path) -> None:
    limits = {"gap_limit": "12h", "max_power_kw": 200}
    reference = Limits(gap=12 * 3_600_000_000, max_power_kw=Fraction(200))
    with running(home) as (server, sync):
        migrate(server.dsn)
        async with await connect(server.dsn, autocommit=True) as conn:
            *meters, _ = await fill(conn, 2)
        # (whole kilowatts: `real` holds them exactly, and so does the mean's sum)
        sync.execute("UPDATE flux.mg_meter_readings SET power_total_active = round(power_total_active)")
        sync.execute("UPDATE flux.mg_device_registry SET metadata = %s WHERE type = 'meter'", [Jsonb(limits)])
        sync.execute("CALL flux.refresh_rollups()")
    for round_, table in enumerate(STEPS):
        with running(home) as (server, sync):
            change(sync, meters, round_)
            before = contents(sync)
            refresh_until_killed(server, table)
        with running(home) as (server, sync):
            assert contents(sync) == before, f"killed at {table}"
            sync.execute("CALL flux.refresh_rollups()")
            assert contents(sync)["rollup_changes"] == []
            for meter in meters:
                check(sync, meter, reference)
    with running(home) as (server, sync):
        done = contents(sync)
        sync.execute("SELECT flux.note_rollup_change(id, %s, %s) FROM flux.mg_device_registry", [MONDAY, MONDAY + WEEK])
        sync.execute("CALL flux.refresh_rollups()")
        batteries = [table for table in ROLLUPS if "bess" in table]
        assert {t: contents(sync)[t] for t in batteries} == {t: done[t] for t in batteries}
