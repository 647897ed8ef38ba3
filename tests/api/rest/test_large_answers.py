"""Answers that do not go out at once: streamed, cut, the newest first, or not at all."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.api.rest.kit import As, Rest, identity, rest_on
from tests.support import NOON, add_device, fetch

from flux.api.rest.room import Limits

Conn = AsyncConnection[Any]
SMALL = Limits(rows=1000, bytes_at_once=2000, rows_in_chunk=7, streams=1)
"""Everything that takes 100,000 rows elsewhere, with a few hundred."""


@pytest.fixture
async def readings(db: Conn) -> None:
    """Three batteries with 200 readings each."""
    await db.execute("SELECT flux.ensure_partitions('flux.mg_bess_readings', %s, %s)", (NOON, NOON + timedelta(1)))
    for number in range(3):
        device = await add_device(db, f"B{number}", "bess")
        await db.execute(
            """INSERT INTO flux.mg_bess_readings (device_id, time, soe)
               SELECT %s, %s::timestamptz + n * interval '1 minute', n %% 100 FROM generate_series(0, 199) n""",
            (device, NOON),
        )


@pytest.fixture
async def small(gateway_dsn: str, readings: None) -> AsyncIterator[Rest]:
    async with rest_on(gateway_dsn, SMALL) as rest:
        yield rest


async def test_a_streamed_answer_is_the_same(db: Conn, small: Rest) -> None:
    path = "mg_bess_readings?select=time,soe,mg_device_registry(name)&order=device_id,time"
    expected = await fetch(
        db,
        """SELECT json_agg(row_to_json(t)) FROM (
               SELECT time, soe, json_build_object('name', d.name) AS mg_device_registry
               FROM flux.mg_bess_readings r JOIN flux.mg_device_registry d ON d.id = r.device_id
               ORDER BY device_id, time) t""",
    )
    answer = await small.get(path, prefer="count=exact")
    assert "content-length" not in answer.headers, "it came in one piece"
    assert (answer.status_code, answer.headers["content-range"]) == (200, "0-599/600")
    assert answer.json() == expected[0][0]
    part = await small.get(path + "&offset=10&limit=300", prefer="count=exact")
    assert (part.status_code, part.headers["content-range"]) == (206, "10-309/600")
    assert part.json() == expected[0][0][10:310]
    lines = (await small.get(path.replace(",mg_device_registry(name)", ""), accept="text/csv")).text.splitlines()
    assert lines[0] == "time,soe"
    assert len(lines) == 601
    nothing = await small.get("mg_bess_readings?soe=lt.0")
    assert nothing.json() == []


async def test_more_rows_than_there_may_be_are_cut_visibly(gateway_dsn: str, readings: None) -> None:
    async with rest_on(gateway_dsn, Limits(rows=100)) as at_once, rest_on(gateway_dsn, Limits(100, 500)) as streamed:
        for rest in (at_once, streamed):
            answer = await rest.get("mg_bess_readings?select=soe&order=time")
            assert (answer.status_code, answer.headers["content-range"]) == (206, "0-99/*")
            assert len(answer.json()) == 100
            asked = await rest.get("mg_bess_readings?select=soe&order=time&limit=100")
            assert (asked.status_code, asked.headers["content-range"]) == (200, "0-99/*")
            counted = await rest.get("mg_bess_readings?select=soe", prefer="count=exact")
            assert (counted.status_code, counted.headers["content-range"]) == (206, "0-99/600")
            embedded = await rest.get("mg_device_registry?select=mg_bess_readings(soe)&limit=1")
            assert len(embedded.json()[0]["mg_bess_readings"]) == 100


async def test_who_hangs_up_lets_go_of_the_connection(small: Rest) -> None:
    """The only place for a stream is free again, whatever the client did."""

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/rest/v1/mg_bess_readings", "query_string": b"", "headers": []}
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            await As(small.app, identity())({**scope}, receive, send)
    assert len((await small.get("mg_bess_readings")).json()) == 600


async def test_an_error_at_the_end_of_a_large_answer_is_an_error(db: Conn, small: Rest) -> None:
    """What begins as a good answer ends as one: everything has been made before the first byte goes out."""
    await db.execute(
        """INSERT INTO flux.market_data (time, type, value, metadata)
           SELECT %s::timestamptz + n * interval '30 minutes', 2, n,
                  jsonb_build_object('n', CASE n WHEN 299 THEN 'x' ELSE n::text END)
           FROM generate_series(0, 299) n""",
        (NOON,),
    )
    refused = await small.get("market_data?select=value,n:metadata->>n::int")
    assert (refused.status_code, refused.json()["code"]) == (400, "22P02")
    assert (await small.get("mg_bess_readings?select=soe&limit=1")).status_code == 200


async def test_too_many_streams(small: Rest) -> None:
    async with small.app.room.streams():
        refused = await small.get("mg_bess_readings")
        assert (refused.status_code, refused.json()["code"]) == (503, "PGRST003")
        assert (await small.get("mg_bess_readings?select=soe&limit=3")).status_code == 200


async def test_a_statement_has_a_time_limit(gateway_dsn: str, readings: None) -> None:
    slow = "mg_device_registry?select=" + ",".join(f"a{n}:mg_bess_readings(*)" for n in range(8))
    async with rest_on(gateway_dsn, Limits(statement_ms=1)) as rest:
        refused = await rest.get(slow)
        assert (refused.status_code, refused.json()["code"]) == (504, "57014")
    async with rest_on(gateway_dsn) as rest:
        assert (await rest.get(slow)).status_code == 200


async def test_the_newest_rows_of_a_series(db: Conn, small: Rest) -> None:
    """They are looked for among the latest first: what is older must come all the same, each once, in order."""
    now = datetime.now(UTC).replace(microsecond=0)
    await db.execute("SELECT flux.ensure_partitions('flux.mg_bess_readings', %s, %s)", (now - timedelta(days=40), now))
    for name, ages in (("B0", (0.1, 1, 3, 30, 80, 100, 800)), ("B1", (100,))):
        for hours in ages:
            await db.execute(
                """INSERT INTO flux.mg_bess_readings (device_id, time, soe)
                   SELECT id, %s, %s FROM flux.mg_device_registry WHERE name = %s""",
                (now - timedelta(hours=hours), 50, name),
            )
    for limit, offset in ((1, 0), (2, 0), (3, 1), (7, 0), (9, 3), (250, 0)):
        query = f"""SELECT coalesce(json_agg(t), '[]') FROM (SELECT time, d.name FROM flux.mg_bess_readings r
            JOIN flux.mg_device_registry d ON d.id = r.device_id
            WHERE d.name = 'B0' ORDER BY time DESC LIMIT {limit} OFFSET {offset}) t"""
        ((expected,),) = await fetch(db, query)
        path = "mg_bess_readings?select=time,...mg_device_registry!inner(name)&mg_device_registry.name=eq.B0"
        answer = await small.get(f"{path}&order=time.desc&limit={limit}&offset={offset}")
        assert answer.json() == expected
    ((latest,),) = await fetch(
        db,
        """SELECT json_agg(t) FROM (SELECT name, (SELECT json_agg(r) FROM (
               SELECT time FROM flux.mg_bess_readings WHERE device_id = d.id ORDER BY time DESC LIMIT 2) r)
               AS mg_bess_readings FROM flux.mg_device_registry d ORDER BY name) t""",
    )
    path = "mg_device_registry?select=name,mg_bess_readings(time)&order=name"
    answer = await small.get(f"{path}&mg_bess_readings.order=time.desc&mg_bess_readings.limit=2")
    assert answer.json() == latest


async def test_a_table_that_a_migration_makes_is_found(db: Conn, gateway_dsn: str) -> None:
    seconds = 0.0
    async with rest_on(gateway_dsn, clock=lambda: seconds) as rest:
        assert (await rest.get("news")).status_code == 404
        await db.execute("CREATE VIEW flux_api.news AS SELECT 1 AS id")
        await db.execute("GRANT SELECT ON flux_api.news TO flux_service")
        assert (await rest.get("news")).status_code == 404, "looked for again too soon"
        seconds += 3
        assert (await rest.get("news")).json() == [{"id": 1}]
        await db.execute("CREATE OR REPLACE VIEW flux_api.news AS SELECT 1 AS id, 2 AS more")
        seconds += 3
        assert (await rest.get("news?select=more")).json() == [{"more": 2}]
        await db.execute("DROP VIEW flux_api.news")
        seconds += 3
        gone = await rest.get("news")
        assert (gone.status_code, gone.json()["code"]) == (404, "PGRST205")


async def test_a_connection_that_died_is_not_the_clients_concern(db: Conn, gateway_dsn: str) -> None:
    async with rest_on(gateway_dsn, check_after_s=3600) as rest:
        assert (await rest.get("sites")).status_code == 200
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test rest'")
        assert (await rest.get("sites")).status_code == 200
