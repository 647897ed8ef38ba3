"""The database roles of the HTTP API, and the login that may become them.

Roles belong to a whole PostgreSQL server, so they are the same for all its databases; the login is of one database
(``flux_gateway_<database>``), and the fence gives it nothing in another one. None of them is a superuser or goes past
row-level security; the login inherits nothing: it can only become one of the others for a transaction.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import Connection, sql

from flux.errors import RefusedError
from flux.store.rights import API_ROLES, ROLES, SERVER_ROLE, VIEWS_ROLE

GATEWAY_MAY_BECOME = (*API_ROLES, SERVER_ROLE)
HINT = (
    "the HTTP API needs roles that this database user may not make; `flux db roles` prints what a DBA has to run once"
)
_TRIES = 10


def ensure_roles(connection: Connection[Any]) -> str | None:
    """Make the roles where they are missing; None: all is there. Otherwise one line: what a DBA has to do.

    ``connection`` in autocommit. Safe when several do it at once, in several databases of one server. RefusedError:
    a role of one of the names exists and has rights that none of ours may have.
    """
    _refuse_powerful(connection)
    for attempt in range(1, _TRIES + 1):
        try:
            for statement in _missing(connection):
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return HINT
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation, psycopg.errors.InternalError):
            # made by somebody else meanwhile ("tuple concurrently updated" is an internal error): look again
            if attempt == _TRIES:
                raise
        else:
            return None
    raise AssertionError("unreachable")


def missing_roles(connection: Connection[Any]) -> str | None:
    """Like :func:`ensure_roles`, changing nothing: one line where something is missing."""
    return HINT if _missing(connection) else None


def _missing(connection: Connection[Any]) -> list[sql.Composed]:
    """The statements that are still to be run, in order."""
    rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(ROLES),)).fetchall()
    there = {name for (name,) in rows}
    absent = [sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)) for role in ROLES if role not in there]
    if VIEWS_ROLE not in there or not _owns_as(connection):
        absent.append(
            sql.SQL("GRANT {} TO CURRENT_USER{}").format(sql.Identifier(VIEWS_ROLE), _with_inherit(connection))
        )
    return absent


def _owns_as(connection: Connection[Any]) -> bool:
    """Whether we may give views to their role, and replace them later."""
    setting = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    row = connection.execute(
        "SELECT pg_has_role(current_user, %(role)s, %(set)s) AND pg_has_role(current_user, %(role)s, 'USAGE')",
        {"role": VIEWS_ROLE, "set": setting},
    ).fetchone()
    return row == (True,)


def _with_inherit(connection: Connection[Any]) -> sql.SQL:
    """PostgreSQL 16 and newer keep both with each membership; before, they follow from the member."""
    return sql.SQL(" WITH INHERIT TRUE, SET TRUE") if connection.info.server_version >= 160_000 else sql.SQL("")


def _refuse_powerful(connection: Connection[Any]) -> None:
    rows = connection.execute(
        """SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)
           AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication)""",
        (list(ROLES),),
    ).fetchall()
    if rows:
        names = ", ".join(name for (name,) in rows)
        raise RefusedError(
            f"role {names} may log in or has rights of an administrator: Flux makes its API's roles without"
        )


def roles_sql(connection: Connection[Any]) -> str:
    """What a DBA runs once, with psql: the roles, and the login of this database with a password of theirs."""
    (row,) = connection.execute("SELECT current_user, current_database(), flux.gateway_name()").fetchall()
    owner, database, gateway = (sql.Identifier(name) for name in row)
    url = f"postgresql://{quote(row[2])}:…@host:5432/{quote(row[1])}"
    head = [
        "-- The HTTP API of Flux: run it with psql in this database, as a user who may create roles.",
        "-- Choose a password in place of the dots. Then run `flux db migrate`, and `flux serve` with",
        f"-- FLUX_API_DATABASE_URL={url}",
    ]
    return (
        "\n".join(head)
        + "\n"
        + "\n".join(line.as_string(connection) for line in _script(connection, owner, database, gateway))
        + "\n"
    )


def _script(
    connection: Connection[Any], owner: sql.Identifier, database: sql.Identifier, gateway: sql.Identifier
) -> Iterator[sql.Composable]:
    for role in ROLES:
        create = sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role))
        yield _unless_there(role, create)
    yield sql.SQL("GRANT {} TO {}{};").format(sql.Identifier(VIEWS_ROLE), owner, _with_inherit(connection))
    yield sql.SQL("CREATE SCHEMA IF NOT EXISTS flux_api AUTHORIZATION {};").format(owner)
    yield sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD '…';").format(gateway)
    roles = sql.SQL(", ").join(map(sql.Identifier, GATEWAY_MAY_BECOME))
    yield sql.SQL("GRANT {} TO {};").format(roles, gateway)
    yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {};").format(database, gateway)
    yield sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {};").format(database, sql.Identifier(SERVER_ROLE))
    yield sql.SQL("GRANT USAGE ON SCHEMA flux TO {};").format(gateway)
    yield sql.SQL("GRANT EXECUTE ON FUNCTION flux.check_key(uuid) TO {};").format(gateway)


def _unless_there(role: str, create: sql.Composed) -> sql.Composed:
    return sql.SQL("SELECT {} WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) \\gexec").format(
        sql.Literal(create.as_string(None)), sql.Literal(role)
    )
