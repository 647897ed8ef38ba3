"""Connections: where the database is, and one clear line when it does not answer.

All SQL of Flux is schema-qualified (``flux.…``), so that a search path set by somebody else changes nothing; sessions
run in UTC, so that what is read back is UTC.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flux.config import Settings
from flux.errors import InputError, RefusedError, UnavailableError
from flux.store.server import EmbeddedServer, has_database, running_dsn

CONNECT_TIMEOUT_S = 10
_SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",  # the driver reads no other style of times and intervals
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # every digit of a counter
    "default_transaction_isolation": "read\\ committed",  # what ingest and rollups are written for
}
"""Settings of a role or database that would change what Flux reads or does; its sessions have their own."""
_EXAMPLE = "postgresql://user:password@host:5432/database"


def resolve_dsn(settings: Settings) -> str:
    """``FLUX_DATABASE_URL``, or the embedded server that runs in ``FLUX_HOME``.

    Starts nothing: raises UnavailableError where neither is there. See :func:`database` for the other way.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return running_dsn(settings.home)


@contextmanager
def database(settings: Settings, *, create: bool = True) -> Iterator[str]:
    """The DSN of a database that runs for as long as the block: an embedded server is started where none does.

    ``create`` False: only one that has been made before; UnavailableError where there is none.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    if not create and not has_database(settings.home):
        raise UnavailableError(
            f"there is no database in {settings.home.absolute()}: "
            f"make one with `flux up` or `flux db migrate`, or set FLUX_HOME or FLUX_DATABASE_URL"
        )
    with EmbeddedServer(settings.home) as server:
        yield server.dsn


def connect_sync(dsn: str, *, application_name: str = "flux", autocommit: bool = False) -> Connection[Any]:
    """Like :func:`connect`, for code without an event loop."""
    arguments = _arguments(dsn, application_name)
    try:
        return Connection.connect(**arguments, autocommit=autocommit)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise _not_connected(arguments, error) from None


async def connect(dsn: str, *, application_name: str = "flux", autocommit: bool = False) -> AsyncConnection[Any]:
    """One connection; use it with ``async with``. InputError: not a DSN; UnavailableError: nobody answers there."""
    arguments = _arguments(dsn, application_name)
    try:
        return await AsyncConnection.connect(**arguments, autocommit=autocommit)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise _not_connected(arguments, error) from None


class _Check:
    """Asks a connection that nobody used for a while whether it still leads anywhere: one round trip."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._asked: WeakKeyDictionary[AsyncConnection[Any], float] = WeakKeyDictionary()

    async def __call__(self, conn: AsyncConnection[Any]) -> None:
        if monotonic() - self._asked.get(conn, -inf) >= self._after_s:
            await AsyncConnectionPool.check_connection(conn)
            self._asked[conn] = monotonic()


@asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    application_name: str = "flux",
    min_size: int = 1,
    max_size: int = 4,
    timeout_s: float = 30,
    check_after_s: float = 0,
    kind: "type[AsyncConnectionPool[AsyncConnection[Any]]]" = AsyncConnectionPool,
) -> AsyncIterator["AsyncConnectionPool[AsyncConnection[Any]]"]:
    """A pool, open for as long as the block; checked once at the start, and it reconnects by itself after that.

    Its connections are in autocommit: a transaction is where ``conn.transaction()`` says so. Each is asked whether it
    is alive before it is used, unless that was less than ``check_after_s`` ago.
    """
    arguments = _arguments(dsn, application_name)
    async with await connect(dsn, application_name=application_name):
        pass  # a database that is away is told here, in one line, rather than by the pool's timeout
    pool: AsyncConnectionPool[AsyncConnection[Any]] = kind(
        kwargs={**arguments, "autocommit": True},
        min_size=min_size,
        max_size=max_size,
        timeout=timeout_s,
        check=_Check(check_after_s),
        open=False,
    )
    try:
        await pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
    except PoolTimeout as error:
        await pool.close()
        raise _not_connected(arguments, error) from None
    try:
        yield pool
    finally:
        await pool.close()


def describe_dsn(dsn: str) -> str:
    """``user@host:port/database``: what may be shown of a DSN. Never its password."""
    return _describe(_parse(dsn))


def _parse(dsn: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's own message repeats parts of the text, and the password may be one of them
        raise InputError(f"FLUX_DATABASE_URL is not a connection string; write it like {_EXAMPLE}") from None


def _arguments(dsn: str, application_name: str) -> dict[str, Any]:
    given = _parse(dsn)
    defaults = {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,  # a site's line drops without a word: notice within a minute
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    ours = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    options = f"{given.get('options', '')} {ours}".strip()
    return {**defaults, **given, "options": options}


def _describe(arguments: dict[str, Any]) -> str:
    host = arguments.get("host") or arguments.get("hostaddr") or "the default socket"
    user = f"{arguments['user']}@" if arguments.get("user") else ""
    return f"{user}{host}:{arguments.get('port') or 5432}/{arguments.get('dbname') or ''}"


@contextmanager
def told_plainly() -> Iterator[None]:
    """What a person at the other end can mend is told in one line: an old schema, missing rights, a full disk."""
    try:
        yield
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InvalidSchemaName,
    ) as error:
        raise RefusedError(f"the schema is not this program's, run `flux db migrate` ({_first_line(error)})") from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(f"the database's user may not do this: {_first_line(error)}") from None
    except psycopg.OperationalError as error:
        raise UnavailableError(f"the database could not do it: {' '.join(str(error).split())}") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def check_answers(dsn: str) -> None:
    """Raise as :func:`connect` does, before anything else is begun."""
    connect_sync(dsn).close()


def _not_connected(arguments: dict[str, Any], error: Exception) -> InputError | UnavailableError:
    """One line of what libpq says in several; its questions ("Is the server running …?") are left out."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.endswith("?")]
    reason = "; ".join(told) or type(error).__name__
    for prefix in ("connection failed: ", "connection is bad: "):
        reason = reason.removeprefix(prefix)
    if arguments.get("password"):
        reason = reason.replace(str(arguments["password"]), "***")
    where = _describe(arguments)
    if isinstance(error, psycopg.ProgrammingError) or reason.startswith("invalid "):
        return InputError(f"FLUX_DATABASE_URL ({where}): {reason}; write it like {_EXAMPLE}")
    if "authentication failed" in reason or "no password supplied" in reason:
        return UnavailableError(f"database {where} lets nobody in: {reason}; check user and password")
    return UnavailableError(f"database {where} does not answer: {reason}; check that it runs and its address")
