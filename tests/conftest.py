"""One PostgreSQL for each test process, and a fresh database with the whole schema for each test that asks for `dsn`.

``FLUX_TEST_DATABASE_URL`` names a server to use instead (its user must be allowed to create databases);
``FLUX_TEST_TIMESCALE_URL`` one with TimescaleDB (its user must be a superuser): then every database has the extension,
and what is about native partitions is skipped.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import psycopg
import pytest
import structlog
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo

from flux.store.db import connect
from flux.store.gateway import gateway_dsn as make_gateway_dsn
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer, running_dsn

SMALL = {"shared_buffers": "32MB", "max_connections": "40", "max_wal_senders": "0", "wal_level": "minimal"}
"""Settings that make a test server start fast and take little memory."""


TIMESCALE = os.environ.get("FLUX_TEST_TIMESCALE_URL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if TIMESCALE:
        for item in items:
            if item.get_closest_marker("partitions"):
                item.add_marker(pytest.mark.skip(reason="about native partitions; this server keeps hypertables"))


_ROOM_IN_MEMORY = 4 * 2**30


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that runs a command configures logging to streams that are gone after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """httpx reads every authority there is for each new client, also for plain HTTP, which takes 27 ms of CPU.

    No test asks anything that is not on this machine, and those that use TLS name the certificate themselves.
    """
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(f"{first}{end}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def admin_dsn() -> Iterator[str]:
    """A superuser's DSN of the test server; its databases are made and dropped through this."""
    given = TIMESCALE or os.environ.get("FLUX_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with reachable_folder() as home, EmbeddedServer(home, fast_unsafe=True, settings=SMALL):
        yield running_dsn(home, "postgres")


@pytest.fixture(scope="session")
def template_database(admin_dsn: str) -> Iterator[str]:
    """The name of a database that is migrated once and copied for each test."""
    name = f"flux_template_{uuid.uuid4().hex[:12]}"
    run_admin(admin_dsn, "CREATE DATABASE {}", name)
    dsn = make_conninfo(admin_dsn, dbname=name)
    if TIMESCALE:
        run_admin(dsn, "CREATE EXTENSION timescaledb")
    migrate(dsn)
    if TIMESCALE:  # its workers are sessions, and a database with sessions cannot be copied
        run_admin(dsn, "SELECT _timescaledb_functions.stop_background_workers()")
    yield name
    run_admin(admin_dsn, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def empty_dsn(admin_dsn: str) -> Iterator[str]:
    """A fresh database without any schema."""
    yield from fresh_database(admin_dsn, "template0")


@pytest.fixture
def dsn(admin_dsn: str, template_database: str) -> Iterator[str]:
    """A fresh database with the newest schema, dropped afterwards."""
    yield from fresh_database(admin_dsn, template_database)


@pytest.fixture
def two_databases(admin_dsn: str, template_database: str) -> Iterator[tuple[str, str]]:
    """Two fresh databases with the newest schema: from one into the other."""
    first, second = (fresh_database(admin_dsn, template_database) for _ in range(2))
    yield next(first), next(second)
    for database in (first, second):
        next(database, None)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty FLUX_HOME for a test that starts a server of its own."""
    with reachable_folder() as folder:
        yield folder


@pytest.fixture
def gateway_dsn(dsn: str, tmp_path: Path) -> str:
    """The DSN of the HTTP API's login in the test's own database."""
    return make_gateway_dsn(dsn, tmp_path)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[AsyncConnection[Any]]:
    """An autocommit connection to the test's own database."""
    async with await connect(dsn, application_name="test", autocommit=True) as connection:
        yield connection


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that the server's user can reach when we are root: pytest's own are for their owner only.

    In memory where there is room: a database is copied for each test, which a disk takes ten times as long for.
    """
    with tempfile.TemporaryDirectory(prefix="flux-test-", dir=_memory_folder()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _memory_folder() -> str | None:
    folder = Path("/dev/shm")
    if folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM_IN_MEMORY:
        return str(folder)
    return None


def fresh_database(admin_dsn: str, template: str) -> Iterator[str]:
    name = f"flux_test_{uuid.uuid4().hex[:12]}"
    run_admin(admin_dsn, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
    if TIMESCALE and template == "template0":
        run_admin(make_conninfo(admin_dsn, dbname=name), "CREATE EXTENSION timescaledb")
    yield make_conninfo(admin_dsn, dbname=name)
    _drop_database(admin_dsn, name)
    run_admin(admin_dsn, "DROP ROLE IF EXISTS {}", f"flux_gateway_{name}")  # the API's login, where a test had it made


def _drop_database(admin_dsn: str, name: str) -> None:
    """One that is not gone soon fails with what every session of the server does: a hang would tell nobody."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '20s'")
        try:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        except psycopg.errors.QueryCanceled:
            others = connection.execute(
                """SELECT pid, backend_type, datname, application_name, state, wait_event_type, wait_event,
                       left(query, 200),
                       (SELECT array_agg((locktype, objid, mode, granted)) FROM pg_locks WHERE pg_locks.pid = a.pid)
                   FROM pg_stat_activity a"""
            ).fetchall()
            told = "\n".join(map(str, others))
            raise AssertionError(f"database {name} can't be dropped; the server's sessions:\n{told}") from None


def run_admin(admin_dsn: str, statement: str, *names: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
