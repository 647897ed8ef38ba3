"""The server is killed in the middle of retention, at one statement after another: nothing is lost or half done."""

import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.conftest import SMALL
from tests.store.test_lifecycle import KEEP, MONDAY, WEEK, assert_same, fill, raw, rollups

from flux.store.db import connect
from flux.store.lifecycle import run_retention
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

NOW = MONDAY + WEEK + KEEP


class DeadlyConnection(AsyncConnection[Any]):
    """Kills the server before its n-th statement."""

    left: int
    server_pid: int

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(self.server_pid, signal.SIGKILL)
        return await super().execute(*arguments, **options)


async def run_until_killed(server: EmbeddedServer, statement: int) -> bool:
    """Whether the run came to that statement."""
    assert server.pid is not None
    conn = await DeadlyConnection.connect(server.dsn, autocommit=True)
    conn.left, conn.server_pid = statement, server.pid
    try:
        await run_retention(conn, as_of=NOW)
    except psycopg.OperationalError:
        return True
    finally:
        await conn.close()
    return False


@pytest.mark.long
async def test_retention_goes_on_wherever_the_server_was_killed(home: Path) -> None:
    settings = {**SMALL, "max_wal_senders": "0"}
    with EmbeddedServer(home, settings=settings) as server:
        migrate(server.dsn)
        async with await connect(server.dsn, autocommit=True) as conn:
            await fill(conn, 2)
            before = await rollups(conn)
            stored = await raw(conn) + await raw(conn, "mg_meter_anchors")
    kills, statement, killed = 0, 4, True
    while killed:
        with EmbeddedServer(home, settings=settings) as server:
            killed = await run_until_killed(server, statement)
        kills += killed
        statement += 2  # what is done already is not done again, so each time it comes further
        with EmbeddedServer(home, settings=settings) as server:
            async with await connect(server.dsn, autocommit=True) as conn:
                assert_same(await rollups(conn), before)
                ((gone,),) = await (await conn.execute("SELECT count(*) FROM flux.dropped_pieces")).fetchall()
                if gone == 0:
                    assert await raw(conn) + await raw(conn, "mg_meter_anchors") == stored
    assert kills > 3
    with EmbeddedServer(home, settings=settings) as server:
        async with await connect(server.dsn, autocommit=True) as conn:
            assert await (await conn.execute("SELECT * FROM flux.retired_pieces()")).fetchall() == []
            pieces = "SELECT table_name, count(*) FROM flux.dropped_pieces GROUP BY 1 ORDER BY 1"
            assert await (await conn.execute(pieces)).fetchall() == [("mg_bess_readings", 1), ("mg_meter_readings", 1)]
            await conn.execute("SELECT flux.note_rollup_change(id) FROM flux.mg_device_registry")
            await conn.execute("CALL flux.refresh_rollups()")
            assert_same(await rollups(conn), before)
