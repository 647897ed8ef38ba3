"""A key whose queries take long waits for itself: others are answered, edges in any case."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import psycopg
import pytest
from psycopg_pool import PoolTimeout
from tests.api.live import LiveServer

from flux.api.identity import Identity, Role
from flux.api.sharing import LEFT_TO_OTHERS, OF_ONE_CALLER, Shares

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def caller(role: Role, name: str) -> Identity:
    return Identity(role, frozenset({"WLCE"}), name=name, claims={"role": role.value})


async def test_no_caller_has_all_and_its_share_is_given_back() -> None:
    shares = Shares(10)
    greedy, other = caller(Role.SERVICE, "greedy"), caller(Role.SERVICE, "other")
    async with AsyncExitStack() as held:
        for _ in range(OF_ONE_CALLER):
            await held.enter_async_context(shares.turn(greedy, 1))
        with pytest.raises(PoolTimeout):
            async with shares.turn(greedy, 0.01):
                pass
        async with shares.turn(other, 1):
            pass
    for _ in range(2 * OF_ONE_CALLER):
        async with shares.turn(greedy, 1):
            pass
    assert not shares._callers, "nobody is remembered who is not there"


async def test_readers_leave_some_to_operators_and_these_to_edges() -> None:
    shares = Shares(5, of_one=1)

    async def take(held: AsyncExitStack, role: Role) -> int:
        """Until there is no more."""
        for number in range(9):
            try:
                await held.enter_async_context(shares.turn(caller(role, f"{role} {number}"), 0.01))
            except PoolTimeout:
                return number
        return 9

    async with AsyncExitStack() as held:
        assert await take(held, Role.AUTHENTICATED) == 5 - LEFT_TO_OTHERS[Role.AUTHENTICATED]
        assert await take(held, Role.OPERATOR) == 1
        assert await take(held, Role.SERVICE) == 0
        assert await take(held, Role.EDGE) == 9, "the pool itself is their limit"


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    shares = Shares(4, of_one=1)
    who = caller(Role.AUTHENTICATED, "one")
    async with shares.turn(who, 1):
        waiting = [asyncio.create_task(_once(shares, who)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await _once(shares, who)


async def _once(shares: Shares, who: Identity) -> None:
    async with shares.turn(who, 1):
        pass


async def test_slow_queries_of_one_key_keep_nobody_else_out(module_server: LiveServer) -> None:
    """A lock makes them slow; without shares they had every connection, and edges were answered 503."""
    reader, edge = module_server.headers("authenticated"), module_server.headers("edge", ["WLCE"])
    other = module_server.headers("authenticated", ["WLCE"], name="another")
    async with (
        httpx.AsyncClient(base_url=module_server.url, timeout=20) as http,
        await psycopg.AsyncConnection.connect(module_server.dsn) as locking,
    ):
        await http.get("/rest/v1/sites", headers=reader)
        await locking.execute("LOCK TABLE flux.sites IN ACCESS EXCLUSIVE MODE")
        slow = [asyncio.create_task(http.get("/rest/v1/sites", headers=reader)) for _ in range(12)]
        async with await psycopg.AsyncConnection.connect(module_server.dsn, autocommit=True) as looking:
            waiting = 0
            while waiting < OF_ONE_CALLER:
                cursor = await looking.execute(_WAITING)
                ((waiting,),) = await cursor.fetchall()
        answers = [
            await http.get("/edge/v1/time", headers=edge),
            await http.get("/rest/v1/mg_device_registry", headers=other),
            await http.get("/v1/devices", headers=other),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        await locking.rollback()
        assert {answer.status_code for answer in await asyncio.gather(*slow)} == {200}
