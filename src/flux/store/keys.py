"""The keys of the HTTP API as the database knows them: what each may see, until when, and whether it still holds.

A token is not kept anywhere: it is a signed statement of one row, made once by :mod:`flux.api.keys`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, errors
from psycopg.rows import class_row

from flux.errors import ConflictError, InputError, NotFoundError

_COLUMNS = """id, name, role, sites, created_at, created_by, expires_at, revoked_at, revoked_by, replaces, last_used,
    CASE WHEN revoked_at <= now() THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'holds' END AS state"""
_HOLDS = "revoked_at IS NULL"


@dataclass(frozen=True, slots=True)
class Key:
    """A key; ``sites`` None: every site. ``state``: holds, expired or revoked."""

    id: UUID
    name: str
    role: str
    sites: list[str] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaces: UUID | None
    last_used: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One statement that wrote through the API."""

    time: datetime
    name: str | None
    role: str | None
    sites: list[str] | None
    object: str
    verb: str
    rows: int | None
    request_id: str | None
    key_id: UUID | None


async def add_key(
    conn: AsyncConnection[Any],
    *,
    name: str,
    role: str,
    sites: list[str] | None,
    by: str,
    expires_at: datetime | None = None,
    replaces: UUID | None = None,
) -> Key:
    """A new key. ConflictError: one of that name holds. InputError: an edge without its one site, no proper name."""
    try:
        cursor = await conn.cursor(row_factory=class_row(Key)).execute(
            f"""INSERT INTO flux.api_keys (name, role, sites, created_by, expires_at, replaces)
                VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}""".encode(),  # noqa: S608 - our own columns
            (name, role, sorted(set(sites)) if sites is not None else None, by, expires_at, replaces),
        )
    except errors.UniqueViolation:
        raise ConflictError(f"{name}: there is a key of this name; `flux keys rotate` replaces it") from None
    except errors.CheckViolation as error:
        raise InputError(
            _REASONS.get(error.diag.constraint_name or "", f"{name}: {error.diag.message_primary}")
        ) from None
    (key,) = await cursor.fetchall()
    return key


_REASONS = {
    "an_edge_has_one_site": "the key of an edge names exactly one site, its own: --site WLCE",
    "api_keys_name_check": "the name of a key begins with a letter or digit, and has letters, digits and ' ._@-' in it",
    "api_keys_check": "a key expires after it is made",
    "api_keys_sites_check": "sites are codes like WLCE: at least one, or none for every site",
    "api_keys_role_check": "the role of a key is anon, authenticated, operator, edge or service",
}


async def list_keys(conn: AsyncConnection[Any], *, everything: bool = False) -> list[Key]:
    """Those that hold or have expired, by name; ``everything``: also those that were revoked, the newest last."""
    cursor = await conn.cursor(row_factory=class_row(Key)).execute(
        f"""SELECT {_COLUMNS} FROM flux.api_keys WHERE %s OR revoked_at IS NULL OR revoked_at > now()
            ORDER BY name, created_at""".encode(),  # noqa: S608 - our own columns
        (everything,),
    )
    return await cursor.fetchall()


async def find_key(conn: AsyncConnection[Any], which: str) -> Key:
    """The key of this name or id that was not revoked. NotFoundError names those there are."""
    cursor = await conn.cursor(row_factory=class_row(Key)).execute(
        f"""SELECT {_COLUMNS} FROM flux.api_keys
            WHERE {_HOLDS} AND (name = %(which)s OR id::text = lower(%(which)s))""".encode(),  # noqa: S608 - our own columns
        {"which": which},
    )
    found = await cursor.fetchone()
    if found is None:
        names = ", ".join(key.name for key in await list_keys(conn))
        raise NotFoundError(f"no key {which!r} holds; there are: {names or 'none, `flux keys create` makes one'}")
    return found


async def revoke_key(conn: AsyncConnection[Any], which: str, *, by: str, after: timedelta = timedelta()) -> Key:
    """From ``after`` from now on it is refused, at the next request. NotFoundError: no such key holds."""
    key = await find_key(conn, which)
    cursor = await conn.cursor(row_factory=class_row(Key)).execute(
        f"""UPDATE flux.api_keys SET revoked_at = now() + %s, revoked_by = %s WHERE id = %s AND {_HOLDS}
            RETURNING {_COLUMNS}""".encode(),  # noqa: S608 - our own columns
        (after, by, key.id),
    )
    rows = await cursor.fetchall()
    if not rows:
        raise NotFoundError(f"key {which!r} was revoked meanwhile")
    return rows[0]


async def known_names(conn: AsyncConnection[Any]) -> set[str]:
    """The names of all keys that ever were."""
    cursor = await conn.execute("SELECT DISTINCT name FROM flux.api_keys")
    return {name for (name,) in await cursor.fetchall()}


async def unknown_sites(conn: AsyncConnection[Any], sites: Iterable[str]) -> list[str]:
    """Those of ``sites`` that the registry has not; a key may be made before its site is."""
    cursor = await conn.execute(
        "SELECT code FROM unnest(%s::text[]) code WHERE code NOT IN (SELECT site FROM flux.sites) ORDER BY 1",
        (list(sites),),
    )
    return [code for (code,) in await cursor.fetchall()]


async def audit(
    conn: AsyncConnection[Any], *, key: str | None = None, since: datetime | None = None, limit: int = 100
) -> list[AuditRow]:
    """What was written through the API, the newest first; ``key``: a name or id."""
    cursor = await conn.cursor(row_factory=class_row(AuditRow)).execute(
        """SELECT time, name, role, sites, object, verb, rows, request_id, key_id FROM flux.api_audit
           WHERE (%(key)s::text IS NULL OR name = %(key)s OR key_id::text = lower(%(key)s))
               AND (%(since)s::timestamptz IS NULL OR time >= %(since)s)
           ORDER BY time DESC, id DESC LIMIT %(limit)s""",
        {"key": key, "since": since, "limit": limit},
    )
    return await cursor.fetchall()
