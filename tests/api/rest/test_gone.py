"""A client that goes away: what it asked for is given up, in the database too."""

import asyncio
from typing import Any

import psycopg
from tests.api.rest.kit import As, identity, rest_on

_BUSY = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND usename LIKE 'flux_gateway%' AND state <> 'idle'"""


async def test_a_query_nobody_waits_for_is_cancelled(dsn: str, gateway_dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(
            "CREATE FUNCTION flux_api.dawdle() RETURNS text LANGUAGE sql STABLE AS 'SELECT pg_sleep(60)::text';"
            "GRANT EXECUTE ON FUNCTION flux_api.dawdle() TO flux_service"
        )

        async def until_busy(expected: int) -> None:
            async with asyncio.timeout(10):
                while plain.execute(_BUSY).fetchone() != (expected,):
                    await asyncio.sleep(0.01)

        async with rest_on(gateway_dsn) as rest:
            assert (await rest.get("market_data_types")).status_code == 200
            left = asyncio.Event()
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "GET", "path": "/rest/v1/rpc/dawdle", "query_string": b"", "headers": []}
            request = asyncio.create_task(As(rest.app, identity())(scope, receive, send))
            await until_busy(1)
            left.set()
            async with asyncio.timeout(5):
                await request
            assert not sent
            await until_busy(0)
            for _ in range(8):  # every connection of the pool, and every statement on it
                assert (await rest.get("sites")).status_code == 200
