"""Who waits for what: one connection of the server hears what changed and wakes those whose site it concerns.

A request that waits holds no connection. Announcements of the registry and of what controllers are told name a table,
not a site; so one query finds out which sites look different now, and only their edges are woken.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flux.api.database import SERVER_ROLE, as_caller
from flux.api.identity import Identity, Role

_logger = structlog.get_logger(__name__)

Pool = AsyncConnectionPool[AsyncConnection[Any]]

_CHANNELS = ("flux_registry", "flux_control", "flux_jobs")
_SETTLE_S = 0.05
_READ_AGAIN_S = 60.0
_DEAF_WAIT_S = 5.0
"""Who waits while nothing can be heard is asked to come back so soon."""
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 10.0
_FOR_ALL_SITES = frozenset({"market_data", "sites"})
_SERVER = Identity(Role.SERVICE, name="flux serve", claims={"role": Role.SERVICE.value})

# What of each site its edge follows, as one text: sites whose text is another one have changed.
_REGISTRY: LiteralString = """
    SELECT site, md5(string_agg(part, '' ORDER BY part)) FROM (
        SELECT site, md5(d::text) AS part FROM flux.mg_device_registry d
        UNION ALL
        SELECT d.site, md5(t.name || t.hash) FROM flux.device_templates t JOIN flux.mg_device_registry d
            ON t.name IN (d.metadata ->> 'register_map', d.metadata ->> 'template')
        UNION ALL
        SELECT site, md5(s::text) FROM flux.site_stops s) parts
    GROUP BY site
"""
_CONTROL: LiteralString = """
    SELECT site, md5(string_agg(part, '' ORDER BY part)) FROM (
        SELECT site, md5(s::text) AS part FROM flux.dispatch_schedules s WHERE withdrawn_at IS NULL AND ends_at > now()
        UNION ALL
        SELECT site, md5(e::text) FROM flux.site_envelopes e WHERE withdrawn_at IS NULL AND ends_at > now()
        UNION ALL
        SELECT site, hash || pushed_at FROM flux.site_plans WHERE withdrawn_at IS NULL) parts
    GROUP BY site
"""


class Topic(StrEnum):
    """What an edge waits for."""

    REGISTRY = "registry"
    CONTROL = "control"
    JOBS = "jobs"


_QUERIES: Mapping[Topic, LiteralString] = {Topic.REGISTRY: _REGISTRY, Topic.CONTROL: _CONTROL}


class Changes:
    """Counts the changes of each topic and site, and wakes who waits; ``async with`` keeps it listening."""

    def __init__(self, pool: Callable[[], Pool]) -> None:
        self._pool = pool
        self._all: dict[Topic, int] = defaultdict(int)
        self._of_site: dict[tuple[Topic, str], int] = defaultdict(int)
        self._looks: dict[Topic, dict[str, str]] = {}
        self._waiting: dict[Topic, dict[str, set[asyncio.Event]]] = {topic: {} for topic in Topic}
        self._known: dict[tuple[Topic, str], tuple[int, str, float]] = {}
        self._listening = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen_for_ever(), name="changes for edges")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.end()

    def end(self) -> None:
        """The server stops: who waits is answered that there is nothing new."""
        self._ended = True
        self._wake_all()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(events) for sites in self._waiting.values() for events in sites.values())

    def version(self, topic: Topic, site: str) -> int:
        """Another number after each change that may concern ``site``; to be asked before reading."""
        return self._all[topic] + self._of_site[topic, site]

    def remember(self, topic: Topic, site: str, version: int, cursor: str) -> None:
        """What was read when the version was ``version`` has this cursor."""
        self._known[topic, site] = (version, cursor, asyncio.get_running_loop().time())

    def unchanged(self, topic: Topic, site: str, cursor: str | None) -> bool:
        """Whether who has ``cursor`` surely has the newest; after a minute it is read again in any case."""
        version, known, at = self._known.get((topic, site), (-1, "", 0.0))
        fresh = asyncio.get_running_loop().time() - at < _READ_AGAIN_S
        return self._listening and fresh and (version, known) == (self.version(topic, site), cursor)

    async def wait(self, topic: Topic, site: str, seen: int, timeout_s: float) -> bool:
        """True as soon as the version is not ``seen`` any more, False after ``timeout_s``, or when the server stops."""
        if self._ended:
            return False
        if self.version(topic, site) != seen:
            return True
        event = asyncio.Event()
        self._waiting[topic].setdefault(site, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s if self._listening else min(timeout_s, _DEAF_WAIT_S)):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            events = self._waiting[topic][site]
            events.discard(event)
            if not events:
                del self._waiting[topic][site]
        return not self._ended

    async def _listen_for_ever(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await self._listen()
            except (psycopg.Error, PoolTimeout) as error:
                self._listening = False
                _logger.warning("changes for edges go unheard", error=" ".join(str(error).split()))
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_RETRY_S)

    async def _listen(self) -> None:
        """Until the connection is lost; one on which nothing is heard for long is asked whether it lives."""
        pool = self._pool()
        async with await AsyncConnection.connect(**_arguments(pool)) as conn:
            for channel in _CHANNELS:
                await conn.execute(f"LISTEN {channel}".encode())
            self._looks = {topic: await self._look(topic) for topic in _QUERIES}
            self._listening = True
            self._wake_all()  # whatever changed before we listened went unheard
            while True:
                heard = [(note.channel, note.payload) async for note in conn.notifies(timeout=30, stop_after=1)]
                if not heard:
                    await conn.execute("SELECT 1")
                    continue
                heard += [(note.channel, note.payload) async for note in conn.notifies(timeout=_SETTLE_S)]
                await self._heard(set(heard))

    async def _heard(self, notes: set[tuple[str, str]]) -> None:
        tables = {topic: {what for channel, what in notes if channel == f"flux_{topic}"} for topic in Topic}
        for site in tables.pop(Topic.JOBS):
            self._changed(Topic.JOBS, site)
        for topic, changed in tables.items():
            if changed & _FOR_ALL_SITES:
                self._changed_for_all(topic)
            if changed - _FOR_ALL_SITES:
                before, now = self._looks[topic], await self._look(topic)
                self._looks[topic] = now
                for site in before.keys() | now.keys():
                    if before.get(site) != now.get(site):
                        self._changed(topic, site)

    async def _look(self, topic: Topic) -> dict[str, str]:
        async with as_caller(self._pool(), _SERVER, role=SERVER_ROLE) as conn:
            return dict(await (await conn.execute(_QUERIES[topic])).fetchall())

    def _changed(self, topic: Topic, site: str) -> None:
        self._of_site[topic, site] += 1
        for event in self._waiting[topic].get(site, ()):
            event.set()

    def _changed_for_all(self, topic: Topic) -> None:
        self._all[topic] += 1
        for events in self._waiting[topic].values():
            for event in events:
                event.set()

    def _wake_all(self) -> None:
        for topic in Topic:
            self._changed_for_all(topic)


def _arguments(pool: Pool) -> dict[str, Any]:
    """How the pool connects, for a connection of its own that is held for long."""
    kwargs = pool.kwargs
    if callable(kwargs) or callable(pool.conninfo):
        raise TypeError("the pool of the API connects with fixed arguments")
    return {"conninfo": pool.conninfo, **(kwargs or {}), "application_name": "flux serve changes", "autocommit": True}
