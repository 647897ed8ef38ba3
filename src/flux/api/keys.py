"""Making keys: a row in the database, a token that is told once; and those of the first start."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from flux.api.identity import Role
from flux.api.secret import load_secrets
from flux.api.tokens import issue_token
from flux.config import Settings
from flux.config.private import create_private
from flux.errors import ConflictError, InputError
from flux.store import keys
from flux.store.db import connect
from flux.store.keys import Key

FIRST_START = "first start"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its token, which nobody can tell again."""

    key: Key
    token: str
    file: Path | None = None


async def create_key(
    conn: AsyncConnection[Any],
    secret: bytes,
    *,
    name: str,
    role: Role,
    sites: Iterable[str] | None = None,
    by: str,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key; ``sites`` None: every site. ConflictError: the name is taken; InputError: it cannot be so."""
    chosen = None if sites is None else list(sites)
    async with conn.transaction():
        key = await keys.add_key(conn, name=name, role=role.value, sites=chosen, by=by, expires_at=expires_at)
        return NewKey(key, _token(secret, key))


async def rotate_key(
    conn: AsyncConnection[Any], secret: bytes, which: str, *, by: str, grace: timedelta = timedelta()
) -> NewKey:
    """A new token for the same name, role and sites; the old one is refused from ``grace`` from now on."""
    async with conn.transaction():
        old = await keys.revoke_key(conn, which, by=by, after=grace)
        new = await keys.add_key(
            conn, name=old.name, role=old.role, sites=old.sites, by=by, expires_at=_again(old), replaces=old.id
        )
        return NewKey(new, _token(secret, new))


def _again(old: Key) -> datetime | None:
    """A key that held for 90 days does so again."""
    if old.expires_at is None or old.revoked_at is None:
        return None
    return old.revoked_at + (old.expires_at - old.created_at)


def _token(secret: bytes, key: Key) -> str:
    return issue_token(
        secret,
        role=Role(key.role),
        name=key.name,
        issued_at=key.created_at,
        sites=key.sites,
        key_id=key.id,
        expires_at=key.expires_at,
    )


async def make_first_keys(dsn: str, settings: Settings, *, edges: Iterable[str] = ()) -> list[NewKey]:
    """The keys ``anon``, ``service`` and one for each edge, where no key of that name ever was.

    Each is in a file of mode 0600 in FLUX_HOME/api; what is returned was made now, and is told here and never again.
    """
    secret = load_secrets(settings, create=True)[0]
    wanted: list[tuple[str, Role, list[str] | None]] = [("anon", Role.ANON, None), ("service", Role.SERVICE, None)]
    wanted += [(f"edge {site}", Role.EDGE, [site]) for site in edges]
    made = []
    async with await connect(dsn, application_name="flux keys", autocommit=True) as conn:
        known = await keys.known_names(conn)
        for name, role, sites in wanted:
            if name in known:
                continue
            try:
                new = await create_key(conn, secret, name=name, role=role, sites=sites, by=FIRST_START)
            except ConflictError:
                continue  # another process made it this moment
            made.append(NewKey(new.key, new.token, _kept(settings, new)))
    return made


def told(made: Iterable[NewKey], *, show: bool) -> list[str]:
    """A line for each key of the first start: where it is kept; ``show``: and the key itself, for a person's eyes."""
    lines = []
    for new in made:
        lines.append(f"made the key {new.key.name!r} of the HTTP API; it is in {new.file}")
        lines += [f"  {new.token}"] if show else []
    return lines


def key_file(settings: Settings, name: str) -> Path:
    """Where the token of a key of the first start is kept."""
    return settings.home / "api" / f"{name.replace(' ', '-')}.key"


def _kept(settings: Settings, new: NewKey) -> Path:
    """A file of that name which is there is of a database that is gone: it is kept beside."""
    file = key_file(settings, new.key.name)
    if not create_private(file, new.token + "\n"):
        file.replace(file.with_suffix(".key.before"))
        if not create_private(file, new.token + "\n"):
            raise InputError(f"{file} cannot be written: another process writes it; start again")
    return file
