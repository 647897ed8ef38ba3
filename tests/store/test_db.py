"""Connections: one clear line when nobody answers, and never a password in it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr
from tests.conftest import SMALL
from tests.support import fetch

from flux.config import Settings
from flux.errors import InputError, UnavailableError
from flux.store.db import connect, connect_sync, database, describe_dsn, open_pool, resolve_dsn
from flux.store.server import EmbeddedServer

NOBODY = "postgresql://flux:hunter2@127.0.0.1:1/flux"


async def test_a_database_that_does_not_answer() -> None:
    with pytest.raises(UnavailableError) as caught:
        await connect(NOBODY)
    line = str(caught.value)
    assert line.startswith("database flux@127.0.0.1:1/flux does not answer: ")
    assert "\n" not in line
    assert "hunter2" not in line
    with pytest.raises(UnavailableError, match="does not answer"):
        async with open_pool(NOBODY):
            pass


def test_a_wrong_password_is_not_repeated(dsn: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        connect_sync(make_conninfo(dsn, password="hunter2"))
    assert "password authentication failed" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["host=x password:hunter2", "postgresql://u:hunter2@[h/x", "http://u:hunter2@h/x"])
def test_what_is_no_dsn_is_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        connect_sync(text)
    assert "FLUX_DATABASE_URL is not a connection string" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_describe_hides_the_password() -> None:
    assert describe_dsn(NOBODY) == "flux@127.0.0.1:1/flux"


async def test_sessions_are_in_utc_and_say_who_they_are(dsn: str) -> None:
    await set_database_timezone(dsn, "America/New_York")
    async with await connect(dsn, application_name="flux edge WLCE") as conn:
        rows = await fetch(conn, "SELECT current_setting('TimeZone'), current_setting('application_name'), now()")
    assert rows[0][:2] == ("UTC", "flux edge WLCE")
    assert rows[0][2].utcoffset() == timedelta()


async def set_database_timezone(dsn: str, zone: str) -> None:
    async with await connect(dsn, autocommit=True) as conn:
        await conn.execute(f"ALTER DATABASE {conninfo_to_dict(dsn)['dbname']} SET timezone = '{zone}'")


async def test_a_pool_replaces_connections_that_died(dsn: str, db: AsyncConnection[Any]) -> None:
    async with open_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.connection() as conn:
            pid = conn.info.backend_pid
        await db.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        async with pool.connection() as conn:
            assert (await fetch(conn, "SELECT 1")) == [(1,)]


def test_the_embedded_database_is_found_from_its_home(home: Path) -> None:
    settings = Settings(home=home, database_url=None)
    with pytest.raises(UnavailableError, match="flux up"):
        resolve_dsn(settings)
    with pytest.raises(UnavailableError, match="there is no database"), database(settings, create=False):
        pass
    assert list(home.iterdir()) == [], "asking makes nothing"
    with EmbeddedServer(home, fast_unsafe=True, settings=SMALL) as server:
        assert resolve_dsn(settings) == server.dsn
        with database(settings) as dsn:
            assert dsn == server.dsn
        connect_sync(server.dsn).close()


def test_a_given_database_is_used_as_it_is(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr(NOBODY))
    assert resolve_dsn(settings) == NOBODY
    with database(settings) as dsn:
        assert dsn == NOBODY
    assert "hunter2" not in repr(settings)


async def test_what_a_role_is_set_to_does_not_change_what_is_read(dsn: str) -> None:
    odd = "-c DateStyle=German -c IntervalStyle=iso_8601 -c extra_float_digits=-10 -c TimeZone=Asia/Kolkata"
    odd += " -c default_transaction_isolation=serializable"
    async with await connect(make_conninfo(dsn, options=odd), autocommit=True) as conn:
        row = await fetch(
            conn,
            "SELECT 1e9::float8 + 0.01, '2026-01-05 00:00Z'::timestamptz, interval '90 s', %s",
            [timedelta(hours=1)],
        )
        isolation = await fetch(conn, "SHOW transaction_isolation")
    assert row == [(1e9 + 0.01, datetime(2026, 1, 5, tzinfo=UTC), timedelta(seconds=90), timedelta(hours=1))]
    assert isolation == [("read committed",)]
