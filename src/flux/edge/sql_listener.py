"""A connection that hears what is announced on one channel of the platform's database."""

from collections.abc import Callable
from time import monotonic
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from flux.model import UnavailableError
from flux.store.db import connect

# Several changes of one transaction or one script arrive together; they are read once. One that never ends, like a
# bulk load, is read once a second.
_SETTLE_S = 0.05
_LONGEST_SETTLE_S = 1.0


class Listener:
    """Opened when it is first asked; for one caller at a time."""

    def __init__(self, channel: LiteralString, dsn: Callable[[], str], name: str) -> None:
        self._channel = channel
        self._dsn = dsn
        self._name = name
        self._conn: AsyncConnection[Any] | None = None

    async def wait(self, timeout_s: float) -> bool:
        """True as soon as something was announced, or may have been unheard; False after ``timeout_s`` without.

        UnavailableError when the connection is lost or can't be made.
        """
        try:
            if self._conn is None:
                self._conn = await self._listen()
                return True  # whatever changed before we listened went unheard
            changed = await _notified(self._conn, timeout_s)
            latest = monotonic() + _LONGEST_SETTLE_S
            while changed and monotonic() < latest and await _notified(self._conn, _SETTLE_S):
                pass
        except psycopg.Error as error:
            await self.close()
            raise UnavailableError(f"platform: {' '.join(str(error).split()) or type(error).__name__}") from error
        return changed

    async def close(self) -> None:
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()

    async def _listen(self) -> AsyncConnection[Any]:
        conn = await connect(self._dsn(), application_name=self._name, autocommit=True)
        try:
            await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        except BaseException:
            await conn.close()
            raise
        return conn


async def _notified(conn: AsyncConnection[Any], timeout_s: float) -> bool:
    notified = False
    async for _ in conn.notifies(timeout=timeout_s, stop_after=1):
        notified = True
    return notified
