"""The connections of the server, shared among its callers: no key takes them all, and edges are never kept out.

A caller whose queries are slow waits for itself. Readers together leave some connections to those who operate, and
these leave some to edges: what a site recorded is stored, and a stop is heard, whatever dashboards ask meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flux.api.identity import Identity, Role, key_of

OF_ONE_CALLER = 4
"""Connections that one caller has at once; what it asks beyond waits."""
LEFT_TO_OTHERS = {Role.ANON: 3, Role.AUTHENTICATED: 3, Role.OPERATOR: 2, Role.SERVICE: 2, Role.EDGE: 0}
"""Connections that callers of a role never have: of the lower number are those of a higher rank."""


@dataclass(slots=True)
class _Share:
    """What one caller has, and how many of its requests have it or wait for it."""

    free: asyncio.Semaphore
    users: int = 0


@dataclass(slots=True)
class Shares:
    """Turns at ``size`` connections."""

    size: int
    of_one: int = OF_ONE_CALLER
    _callers: dict[Hashable, _Share] = field(default_factory=dict)
    _ranks: dict[int, asyncio.Semaphore] = field(default_factory=dict)

    @asynccontextmanager
    async def turn(self, identity: Identity, timeout_s: float) -> AsyncIterator[None]:
        """The right to one connection for as long as the block; PoolTimeout where it does not come in time."""
        async with AsyncExitStack() as held:
            share = held.enter_context(self._used(key_of(identity)))
            try:
                async with asyncio.timeout(timeout_s):
                    await held.enter_async_context(share.free)
                    for rank in self._ranks_of(identity.role):
                        await held.enter_async_context(rank)
            except TimeoutError:
                raise PoolTimeout(f"no turn after {timeout_s:g} s") from None
            yield

    def _ranks_of(self, role: Role) -> list[asyncio.Semaphore]:
        """The strictest first: who waits there holds none of what others may have."""
        left = sorted({left for left in LEFT_TO_OTHERS.values() if 0 < left <= LEFT_TO_OTHERS[role]}, reverse=True)
        return [self._ranks.setdefault(one, asyncio.Semaphore(max(1, self.size - one))) for one in left]

    @contextmanager
    def _used(self, caller: Hashable) -> Iterator[_Share]:
        """The caller's share, which is forgotten when nobody has or wants it any more."""
        share = self._callers.setdefault(caller, _Share(asyncio.Semaphore(self.of_one)))
        share.users += 1
        try:
            yield share
        finally:
            share.users -= 1
            if not share.users:
                del self._callers[caller]


class SharedPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """A pool whose connections are had in turns."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.shares = Shares(self.max_size)


@asynccontextmanager
async def connection_of(
    pool: "AsyncConnectionPool[AsyncConnection[Any]]", identity: Identity
) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection of ``pool`` for a request of ``identity``, in its turn where the pool is shared."""
    async with AsyncExitStack() as held:
        if isinstance(pool, SharedPool):
            await held.enter_async_context(pool.shares.turn(identity, pool.timeout))
        yield await held.enter_async_context(pool.connection())
