"""The login by which ``flux serve`` reaches the database: it may do nothing but become one of the API's roles."""

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import structlog
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo

from flux.config.private import create_private, read_private
from flux.errors import RefusedError, UnavailableError
from flux.store.db import connect_sync
from flux.store.rights import SERVER_ROLE
from flux.store.roles import GATEWAY_MAY_BECOME, HINT, missing_roles

_logger = structlog.get_logger(__name__)
_TRIES = 10
_SOMEBODY_ELSE = (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation, psycopg.errors.InternalError)
"""What is raised when another process makes or grants the same now ("tuple concurrently updated" is the last one)."""


def gateway_dsn(owner_dsn: str, home: Path, *, given: str | None = None) -> str:
    """The DSN of the API's login in the database of ``owner_dsn``; the login is made where it is missing.

    Its random password is kept in ``home``/api, mode 0600. ``given`` (``FLUX_API_DATABASE_URL``) is used as it is,
    after a check. RefusedError: the login cannot be made by this user, or may do more than it should.
    """
    if given is not None:
        check_gateway(given)
        return given
    with connect_sync(owner_dsn, application_name="flux gateway", autocommit=True) as connection:
        ((login, database),) = connection.execute("SELECT flux.gateway_name(), current_database()").fetchall()
        if missing_roles(connection) is not None:
            raise RefusedError(HINT)
        file = home / "api" / f"gateway-{quote(database, safe='')}"
        password = _kept(file)
        while password is None:  # of two that begin at once, one writes it
            create_private(file, secrets.token_urlsafe(32))
            password = _kept(file)
        dsn = make_conninfo(owner_dsn, user=login, password=password)
        if not _lets_in(dsn):
            _make_login(connection, login, password)
        _grant(connection, login, database)
    check_gateway(dsn)
    return dsn


def check_gateway(dsn: str) -> None:
    """Raise RefusedError unless this login is one that may do nothing but become the API's roles."""
    with connect_sync(dsn, application_name="flux gateway", autocommit=True) as connection:
        ((login, powerful, inherits, lacks, owner),) = connection.execute(
            """SELECT r.rolname, r.rolsuper OR r.rolbypassrls OR r.rolcreaterole, r.rolinherit,
                      array(SELECT b.name FROM unnest(%s::text[]) b(name)
                            WHERE to_regrole(b.name) IS NULL OR NOT pg_has_role(r.oid, to_regrole(b.name), 'MEMBER')),
                      (SELECT pg_has_role(r.oid, n.nspowner, 'MEMBER') FROM pg_namespace n WHERE n.nspname = 'flux')
               FROM pg_roles r WHERE r.rolname = session_user""",
            (list(GATEWAY_MAY_BECOME),),
        ).fetchall()
    if powerful or owner:
        raise RefusedError(
            f"login {login} may do more than the HTTP API should: give it one of its own (`flux db roles`)"
        )
    if inherits:
        raise RefusedError(f"login {login} inherits the rights of the API's roles: make it NOINHERIT (`flux db roles`)")
    if lacks:
        raise RefusedError(f"login {login} may not become {', '.join(lacks)}: {HINT}")


def _make_login(connection: Connection[Any], login: str, password: str) -> None:
    """The password goes over as its SCRAM verifier: a server that logs statements logs no password."""
    verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    as_it_should = sql.SQL("{} LOGIN NOINHERIT PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier))
    for attempt in range(1, _TRIES + 1):
        ((exists,),) = connection.execute("SELECT to_regrole(quote_ident(%s)) IS NOT NULL", (login,)).fetchall()
        try:
            connection.execute(sql.SQL("ALTER ROLE " if exists else "CREATE ROLE ") + as_it_should)
        except psycopg.errors.InsufficientPrivilege:
            raise RefusedError(HINT) from None
        except _SOMEBODY_ELSE:
            if attempt == _TRIES:
                raise
        else:
            if exists:
                _logger.warning("the API's login has another password: a server elsewhere has to be told", login=login)
            return


def _grant(connection: Connection[Any], login: str, database: str) -> None:
    """What it needs besides; asked first, so that nothing is written where nothing is missing."""
    user = sql.Identifier(login)
    for attempt in range(1, _TRIES + 1):
        try:
            rows = connection.execute(
                "SELECT name FROM unnest(%s::text[]) name WHERE NOT pg_has_role(%s, name, 'MEMBER')",
                (list(GATEWAY_MAY_BECOME), login),
            ).fetchall()
            for (role,) in rows:
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), user))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), user))
            connection.execute(  # ingest stages what it stores; where PUBLIC may do nothing it needs the right itself
                sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(
                    sql.Identifier(database), sql.Identifier(SERVER_ROLE)
                )
            )
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA flux TO {}").format(user))
            connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION flux.check_key(uuid) TO {}").format(user))
        except psycopg.errors.InsufficientPrivilege:
            raise RefusedError(HINT) from None
        except _SOMEBODY_ELSE:
            if attempt == _TRIES:
                raise
        else:
            return


def _kept(file: Path) -> str | None:
    try:
        return read_private(file).strip() or None
    except FileNotFoundError:
        return None


def _lets_in(dsn: str) -> bool:
    try:
        connect_sync(dsn, application_name="flux gateway").close()
    except UnavailableError:
        return False
    return True
