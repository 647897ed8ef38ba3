"""One reader of the log for all sockets of a process: it reads what has been committed, and tells the groups.

Each turn goes from one position (a snapshot) to the next. A listener joins or leaves between turns, so what it is told
begins exactly where it said that it was: nothing is missed at the seam, and nothing told twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from flux.api.identity import Identity
from flux.api.realtime.catalogue import Table
from flux.api.realtime.cursor import Cursor, CursorTooOldError, includes
from flux.api.realtime.groups import Binding, Group, GroupKey, Listener, group_identity, group_key
from flux.api.realtime.log import ChangeLog, Page, Pool, changes_of, spans_of
from flux.api.realtime.reach import Part, reach_of
from flux.api.realtime.rows import Resync, Row, fetch
from flux.errors import UnavailableError
from flux.store.db import connect

_logger = structlog.get_logger(__name__)
_DATABASE_IS_AWAY = (psycopg.OperationalError, PoolTimeout)
TICK_S = 5.0
"""A turn is made at least this often: should a notification be lost, it is late and not lost with it."""
_LOOK_AGAIN_S = (0.02, 0.1, 0.5, 2)
"""After a notification: who committed at the same time left it to that one, and is visible a little later."""
_RETRY_S = (0.5, 1, 2, 5)
_AT_ONCE = 200
"""Rows that are told before the sockets get a turn."""
_FETCHES = 3
"""Groups that are fetched for at once: the other connections are for other requests."""
_CATCHING_UP = 2
"""Channels that read what they missed at once: one client may join a hundred with an old cursor."""


class Hub:
    """Use it with ``async with``. :meth:`poke` has it look at once; it looks by itself when the database notifies."""

    def __init__(self, pool: Pool, dsn: str) -> None:
        """``dsn``: of the connection that listens, which is none of the pool's."""
        self._pool = pool
        self._dsn = dsn
        self.log = ChangeLog(pool)
        self._groups: dict[GroupKey, Group] = {}
        self._members: dict[Listener, GroupKey] = {}
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._turned = asyncio.Condition()
        self._position: Cursor | None = None
        self._catching_up = asyncio.Semaphore(_CATCHING_UP)
        self._tasks: list[asyncio.Task[None]] = []
        self.after_turn: Callable[[Cursor], Awaitable[None]] | None = None
        """Called with the new position, before the next turn."""

    async def __aenter__(self) -> "Hub":
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def position(self) -> Cursor | None:
        """Up to where everything was told; None: not known yet."""
        return self._position

    def poke(self) -> None:
        """Have a turn made at once."""
        self._wake.set()

    async def turned(self) -> None:
        """Until the next turn is over."""
        async with self._turned:
            await self._turned.wait()

    @asynccontextmanager
    async def between_turns(self) -> AsyncIterator[Cursor]:
        """No turn is made meanwhile; gives the position. Waits for the first turn of all."""
        while True:
            async with self._turn:
                if self._position is not None and self._position.until is None:
                    yield self._position
                    return
            self.poke()
            await self.turned()

    def add(
        self, listener: Listener, identity: Identity, bindings: Sequence[Binding], tables: Mapping[str, Table]
    ) -> None:
        """From the next turn on ``listener`` is told; call it between turns."""
        key = group_key(identity)
        group = self._groups.setdefault(key, Group(group_identity(identity)))
        group.add(listener, bindings, tables)
        self._members[listener] = key

    def remove(self, listener: Listener) -> None:
        """Nothing more is told to ``listener``, at any time."""
        key = self._members.pop(listener, None)
        if key is not None:
            self._groups[key].remove(listener)
            if not self._groups[key].followers:
                del self._groups[key]

    async def catch_up(self, group: Group, begin: Cursor, target: str) -> AsyncIterator[tuple[Row | Resync, Cursor]]:
        """What a group of one listener follows, from ``begin`` to snapshot ``target``, with the position after each."""
        wanted = group.wanted()
        after = begin
        pages = self.log.pages(begin, target, wanted.tables)
        while True:
            async with self._catching_up:  # (not while the client reads, which may take as long as it likes)
                page = await anext(pages, None)
                if page is None:
                    return
                changes, spans = changes_of(page, after), spans_of(page, after)
                fetched = await fetch(self._pool, group.identity, wanted, changes, spans)
            for told in fetched:
                yield told, _position_of(page, told)
            after = page.end

    async def _run(self) -> None:
        failures = looks = 0
        while True:
            self._wake.clear()
            try:
                await self._make_turn()
                failures = 0
            except _DATABASE_IS_AWAY as error:
                failures += 1
                if failures == 1:
                    _logger.warning("realtime: the database does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S)) - 1])
                continue
            except Exception:
                _logger.exception("realtime: a turn failed")
                self._fail(list(self._members), "the server could not go on; join again")
                self._position = None
                await asyncio.sleep(_RETRY_S[0])
                continue
            async with self._turned:
                self._turned.notify_all()
            looks = 0 if await self._woken_within(self._pause_s(looks)) else looks + 1

    def _pause_s(self, looks: int) -> float:
        return _LOOK_AGAIN_S[looks] if self._groups and looks < len(_LOOK_AGAIN_S) else TICK_S

    async def _woken_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):  # then a turn is made all the same
            async with asyncio.timeout(seconds):
                await self._wake.wait()
                return True
        return False

    async def _make_turn(self) -> None:
        async with self._turn:
            if self._position is None or not self._groups:
                self._position = await self.log.now()
            else:
                try:
                    await self._follow(self._position)
                except CursorTooOldError as error:  # the database was away for longer than the log is kept
                    self._fail(list(self._members), str(error))
                    self._position = await self.log.now()
            if self.after_turn is not None:
                await self.after_turn(self._position)

    async def _follow(self, begin: Cursor) -> None:
        """Page by page; the position is that of the last page that was told, should the next one fail."""
        after = begin
        async for page in self.log.pages(begin):
            reach = await reach_of(self._pool, changes_of(page, after), spans_of(page, after))
            groups = list(self._groups.values())
            limit = asyncio.Semaphore(_FETCHES)
            parts = [reach.of(group.identity.sites) for group in groups]
            fetched = await asyncio.gather(
                *(self._fetch(group, part, limit) for group, part in zip(groups, parts, strict=True))
            )
            # (from here on nothing fails: what was told in part could not be told again)
            for group, rows in zip(groups, fetched, strict=True):
                for number, told in enumerate(rows, start=1):
                    group.tell(told, _position_of(page, told))
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
            self._position = after = page.end

    async def _fetch(self, group: Group, part: Part, limit: asyncio.Semaphore) -> list[Row | Resync]:
        async with limit:
            try:
                return await fetch(self._pool, group.identity, group.wanted(), part.changes, part.spans)
            except Exception as error:
                if isinstance(error, psycopg.OperationalError) and not isinstance(error, psycopg.errors.QueryCanceled):
                    raise
                # of this group alone (a view that changed, a query that took too long): the others go on
                _logger.exception("realtime: rows could not be fetched", role=group.identity.role)
                self._fail(group.listeners, "the rows could not be read; join again")
                return []

    def _fail(self, listeners: Iterable[Listener], reason: str) -> None:
        for listener in listeners:
            self.remove(listener)
            listener.fail(reason)

    async def _listen(self) -> None:
        """Wakes the other task at each notification; a connection that is lost is made again."""
        failures = 0
        while True:
            try:
                async with await connect(self._dsn, application_name="flux realtime", autocommit=True) as conn:
                    await conn.execute("LISTEN flux_changes")
                    failures = 0
                    self.poke()  # for what came while nobody listened
                    async for _ in conn.notifies():
                        self.poke()
            except (psycopg.OperationalError, UnavailableError) as error:
                failures += 1
                if failures == 1:
                    _logger.warning("realtime: lost the connection that listens", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S)) - 1])


def _position_of(page: Page, told: Row | Resync) -> Cursor:
    if isinstance(told, Resync):
        return page.cursor(told.entry, 1)
    return page.cursor(told.change.entry, told.change.row)


def has_seen(position: Cursor, cursor: Cursor) -> bool:
    """Whether ``position``, where a turn has ended, comes after ``cursor`` or is the same."""
    return includes(position.since, cursor.until or cursor.since)
