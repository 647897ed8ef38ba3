"""The schema: migrations (alembic runs plain SQL files), then what follows from the code.

A migration is ``sql/migrations/NNNN_name.sql`` and a revision of the same name in ``revisions/``. After them the *sync*
step adds a column for each metric of the model that a readings table lacks, and applies the SQL that may be applied
again and again (rollups) when its hash differs from the one that was applied last.

Two that migrate at once take turns; each migration is one transaction, so a server that dies leaves the version before.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import structlog
from psycopg import sql

from flux.errors import RefusedError
from flux.model import BESS_METRICS, METER_METRICS, Metric, MetricKind
from flux.store import roles
from flux.store.db import connect_sync
from flux.store.rights import FENCE_FUNCTIONS, TABLES

_logger = structlog.get_logger(__name__)
_HERE = Path(__file__).parent
_LOCK_KEY = 0x666C7578  # "flux"
_VERSION_TABLE = "schema_version"
_MIN_SERVER_VERSION = 150_000
_TRIES = 5

READINGS_TABLES = {"mg_bess_readings": BESS_METRICS, "mg_meter_readings": METER_METRICS}
SQL_TYPES = {MetricKind.LEVEL: "real", MetricKind.COUNTER: "double precision", MetricKind.CODE: "smallint"}


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What :func:`migrate` changed; everything empty: the schema was up to date.

    ``without_api``: why the schema of the HTTP API was left out, and what to do; None: it is there.
    """

    version_before: str | None
    version: str
    columns_added: tuple[str, ...]
    objects_applied: tuple[str, ...]
    without_api: str | None = None

    @property
    def changed(self) -> bool:
        return self.version_before != self.version or bool(self.columns_added or self.objects_applied)


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The schema of a database against the one of this program; ``version`` None: no schema yet."""

    version: str | None
    newest: str
    pending: tuple[str, ...]
    missing_columns: tuple[str, ...]
    stale_objects: tuple[str, ...]
    server_version: str
    without_api: str | None = None

    @property
    def current(self) -> bool:
        return not (self.pending or self.missing_columns or self.stale_objects) and self.version == self.newest


def migrate(dsn: str) -> MigrationReport:
    """Bring the database to the newest schema; safe to call at every start and from many processes.

    Raises RefusedError for a server older than PostgreSQL 15, a schema newer than this program, or one that we may not
    use.
    """
    with connect_sync(dsn, autocommit=True) as connection, _migration_lock(connection):
        _check_server(connection)
        _make_schema(connection)
        before = _version(connection)
        _refuse_newer(before)
        _run_migrations(connection)
        columns = _add_columns(connection)
        without = roles.ensure_roles(connection)
        objects = _apply_repeatable(connection, api=without is None)
        _close_to_public(connection)
    report = MigrationReport(before, _newest(), tuple(columns), tuple(objects), without)
    if report.changed:
        _logger.info("schema migrated", version_before=before, version=report.version, columns_added=columns)
    return report


def status(dsn: str) -> SchemaStatus:
    """What :func:`migrate` would do; changes nothing."""
    with connect_sync(dsn, autocommit=True) as connection:
        version = _version(connection)
        revisions = known_versions()
        known = version in revisions
        without = roles.missing_roles(connection)
        return SchemaStatus(
            version=version,
            newest=revisions[-1],
            pending=tuple(r for r in revisions if version is None or (known and r > version)),
            missing_columns=tuple(f"{table}.{metric.name}" for table, metric in _missing_columns(connection)),
            stale_objects=tuple(name for name, _ in _stale_objects(connection, api=without is None)),
            without_api=without,
            server_version=str(connection.info.parameter_status("server_version")).split()[0],
        )


def run_migration_file(name: str) -> None:
    """Called by a revision: run one SQL file, inside the revision's transaction."""
    from alembic import op

    text = (_HERE / "sql" / "migrations" / name).read_text()
    # the driver's own connection: SQLAlchemy would take % and : in the text for parameters
    driver_connection = op.get_bind().connection.driver_connection
    cast("psycopg.Connection[Any]", driver_connection).execute(text)


@contextmanager
def _migration_lock(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """One migration at a time in a database; the lock ends with its session, whatever happens."""
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def _check_server(connection: psycopg.Connection[Any]) -> None:
    if connection.info.server_version < _MIN_SERVER_VERSION:
        raise RefusedError(f"PostgreSQL {connection.info.server_version // 10_000} is too old: Flux needs 15 or newer")


def known_versions() -> list[str]:
    """The versions of the schema that this program knows, oldest first."""
    return sorted(path.name[:4] for path in (_HERE / "sql" / "migrations").glob("[0-9]*.sql"))


def _newest() -> str:
    return known_versions()[-1]


def _refuse_newer(version: str | None) -> None:
    if version is not None and version not in known_versions():
        raise RefusedError(
            f"the schema has version {version}, this Flux knows only up to {_newest()}: use the Flux that made it"
        )


def _version(connection: psycopg.Connection[Any]) -> str | None:
    if connection.execute("SELECT to_regclass('flux.schema_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM flux.schema_version").fetchone()
    return str(row[0]) if row else None


def _make_schema(connection: psycopg.Connection[Any]) -> None:
    """Where it is not there: who owns only the schema may not create one, even IF NOT EXISTS."""
    row = connection.execute(
        """SELECT r.rolname, current_user,
                  has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
           FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'flux'"""
    ).fetchone()
    if row is None:
        connection.execute("CREATE SCHEMA flux")
        return
    owner, user, usable = row
    if not usable:
        raise RefusedError(
            f"schema flux belongs to role {owner}, not to {user}: connect as {owner}, or change its owner"
        )


def _close_to_public(connection: psycopg.Connection[Any]) -> None:
    """Functions are executable by everybody unless told otherwise. Asked each time: a migration may be cut off.

    But for those that policies ask: whoever has rights on a table calls them.
    """
    rows = connection.execute(
        """SELECT p.oid::regprocedure::text FROM pg_proc p
           WHERE p.pronamespace = 'flux'::regnamespace AND pg_has_role(p.proowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM unnest(%s::text[]) f(name) WHERE to_regprocedure('flux.' || f.name) = p.oid)
           AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0)
           ORDER BY 1""",
        (list(FENCE_FUNCTIONS),),
    ).fetchall()
    if rows:
        routines = ", ".join(name for (name,) in rows)
        connection.execute(f"REVOKE ALL ON ROUTINE {routines} FROM PUBLIC".encode())


def _run_migrations(connection: psycopg.Connection[Any], target: str = "head") -> None:
    """On the connection that holds the lock; imports are inside: alembic and SQLAlchemy cost 30 MB, only here."""
    import sqlalchemy
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("version_locations", str(_HERE / "revisions"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
    context = EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs(target, revision))
    connection.autocommit = False  # each migration is a transaction of its own
    try:
        with context, engine.connect() as engine_connection:
            context.configure(
                connection=engine_connection,
                version_table=_VERSION_TABLE,
                version_table_schema="flux",
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()
    except sqlalchemy.exc.DBAPIError as error:
        if error.orig is None:
            raise
        raise error.orig from None  # the driver's own error: callers know psycopg, and nothing of SQLAlchemy
    finally:
        if not connection.closed:
            connection.rollback()
            connection.autocommit = True


def _missing_columns(connection: psycopg.Connection[Any]) -> list[tuple[str, Metric]]:
    rows = connection.execute(
        """SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
           WHERE c.relnamespace = to_regnamespace('flux') AND c.relname = ANY(%s) AND a.attnum > 0""",
        (list(READINGS_TABLES),),
    ).fetchall()
    present = {(table, column) for table, column in rows}
    tables = {table for table, _ in rows}
    return [
        (table, metric)
        for table, metrics in READINGS_TABLES.items()
        if table in tables
        for metric in metrics
        if (table, metric.name) not in present
    ]


def _add_columns(connection: psycopg.Connection[Any]) -> list[str]:
    """A column for each new metric; nullable, so that adding it does not rewrite the table."""
    missing = _missing_columns(connection)
    with connection.transaction():
        for table, metric in missing:
            connection.execute(
                sql.SQL("ALTER TABLE flux.{} ADD COLUMN {} {} CHECK ({})").format(
                    sql.Identifier(table),
                    sql.Identifier(metric.name),
                    sql.SQL(SQL_TYPES[metric.kind]),
                    possible(metric),
                )
            )
    return [f"{table}.{metric.name}" for table, metric in missing]


def possible(metric: Metric) -> sql.Composed:
    """The condition that a value of this metric can be true: finite; a counter or code never below zero.

    NaN counts as greater than Infinity in PostgreSQL, so the comparisons refuse it.
    """
    column = sql.Identifier(metric.name)
    if metric.name == "soe":  # a little outside happens: rounding, calibration of the battery
        return sql.SQL("{0} >= -0.5 AND {0} <= 100.5").format(column)
    if metric.kind is MetricKind.LEVEL:
        return sql.SQL("{0} > '-Infinity' AND {0} < 'Infinity'").format(column)
    if metric.kind is MetricKind.COUNTER:
        return sql.SQL("{0} >= 0 AND {0} < 'Infinity'").format(column)
    return sql.SQL("{0} >= 0").format(column)


def _stale_objects(connection: psycopg.Connection[Any], *, api: bool) -> list[tuple[str, str]]:
    from flux.store import repeatable  # it builds on this module's tables

    applied: dict[str, str] = {}
    if connection.execute("SELECT to_regclass('flux.schema_objects')").fetchone() != (None,):
        applied = dict(connection.execute("SELECT name, hash FROM flux.schema_objects").fetchall())
    scripts = repeatable.repeatable_sql()
    if not api:
        del scripts[repeatable.API]
    elif not _views_are_current(connection):
        applied.pop(repeatable.API, None)
    return [(name, text) for name, text in scripts.items() if applied.get(name) != _hash(text)]


def _views_are_current(connection: psycopg.Connection[Any]) -> bool:
    """Whether every view of flux_api is there (a backup holds none), and each has the columns of its table."""
    ((current,),) = connection.execute(
        """SELECT NOT EXISTS (SELECT FROM unnest(%s::text[]) n(name) WHERE to_regclass('flux_api.' || n.name) IS NULL)
           AND NOT EXISTS (
               SELECT FROM pg_class v
               JOIN pg_class t ON t.relname = v.relname AND t.relnamespace = to_regnamespace('flux')
               CROSS JOIN LATERAL (
                   SELECT array_agg(a.attname) FILTER (WHERE a.attrelid = v.oid) AS of_view,
                          array_agg(a.attname) FILTER (WHERE a.attrelid = t.oid) AS of_table
                   FROM (SELECT * FROM pg_attribute WHERE attrelid IN (v.oid, t.oid) AND attnum > 0
                         AND NOT attisdropped ORDER BY attname) a) c
               WHERE v.relnamespace = to_regnamespace('flux_api') AND v.relkind = 'v' AND c.of_view <> c.of_table)""",
        ([table.name for table in TABLES],),
    ).fetchall()
    return bool(current)


def _apply_repeatable(connection: psycopg.Connection[Any], *, api: bool) -> list[str]:
    applied = []
    for name, text in _stale_objects(connection, api=api):
        for attempt in range(1, _TRIES + 1):
            try:
                _apply(connection, name, text)
                break
            except psycopg.errors.DeadlockDetected:  # with somebody's own transaction; those of Flux lock in order
                if attempt == _TRIES:
                    raise
                _logger.warning("migration gave way to another session, tries again", applying=name)
        applied.append(name)
    return applied


def _apply(connection: psycopg.Connection[Any], name: str, text: str) -> None:
    with connection.transaction():
        connection.execute(text)
        connection.execute(
            """INSERT INTO flux.schema_objects (name, hash, applied_at) VALUES (%s, %s, now())
               ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, applied_at = excluded.applied_at""",
            (name, _hash(text)),
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
