"""What the handlers of ``/rest/v1`` share: the pool, the limits, and what the database has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg_pool import PoolTimeout

from flux.api.identity import Role
from flux.api.rest.catalogue import Catalogue
from flux.api.rest.catalogue_load import load_catalogue
from flux.api.rest.errors import ApiError, from_database
from flux.api.rest.execute import Pool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost."""

    rows: int = 100_000
    """Of an answer, and of each resource embedded in a row of it."""
    bytes_at_once: int = 32 * 2**20
    """Made by PostgreSQL as one value, as far as can be told before; more go out in a stream."""
    rows_in_chunk: int = 500
    """Of a stream, held in memory."""
    streams: int = 3
    """At the same time: each keeps a connection of the pool for as long as its client reads."""
    statement_ms: int = 15_000
    stream_s: float = 300
    body_bytes: int = 16 * 2**20
    catalogue_s: float = 2
    """After this, a name that is not known is looked for in the database again."""

    def rows_at_once(self, width: int) -> int:
        """Rows of so many bytes each that are made as one value."""
        return max(1, min(self.rows - 1, self.bytes_at_once // max(1, width)))


class Room:
    """One for the whole application."""

    def __init__(self, pool: Pool, limits: Limits, clock: Callable[[], float]) -> None:
        """``clock``: seconds that never go back, such as ``time.monotonic``."""
        self.pool = pool
        self.limits = limits
        self._clock = clock
        self._catalogue: Catalogue | None = None
        self._loaded_at = 0.0
        self._descriptions: dict[Role, tuple[Catalogue, bytes]] = {}
        self._loading = asyncio.Lock()
        self._streams = asyncio.Semaphore(limits.streams)

    async def catalogue(self) -> Catalogue:
        """What the database has, as of when it was last read."""
        return self._catalogue or await self._load(None)

    def description(self, catalogue: Catalogue, role: Role, describe: Callable[[], bytes]) -> bytes:
        """What ``describe`` made for this role and this catalogue: half a megabyte, made once."""
        known = self._descriptions.get(role)
        if known is None or known[0] is not catalogue:
            known = self._descriptions[role] = (catalogue, describe())
        return known[1]

    async def refreshed(self) -> bool:
        """Read it again, unless that was just now; whether anything is different."""
        known = self._catalogue
        if known is None or self._clock() - self._loaded_at < self.limits.catalogue_s:
            return False
        return await self._load(known) != known

    async def _load(self, known: Catalogue | None) -> Catalogue:
        async with self._loading:
            if self._catalogue is not None and self._catalogue is not known:
                return self._catalogue  # somebody else did, meanwhile
            try:
                async with self.pool.connection() as conn:
                    self._catalogue = await load_catalogue(conn)
            except PoolTimeout:
                raise ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from None
            except psycopg.Error as error:
                raise from_database(error, Role.SERVICE) from error
            self._loaded_at = self._clock()
            return self._catalogue

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[None]:
        """A place among those that stream; ApiError 503 where all are taken."""
        if self._streams.locked():
            hint = "ask for less at once, with limit and offset"
            raise ApiError(503, "PGRST003", "too many large answers are being read already", hint=hint)
        async with self._streams:
            yield
