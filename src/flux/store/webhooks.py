"""Which events of webhooks were taken: none twice, and none after a newer one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection

from flux.errors import ConflictError

KEPT = timedelta(days=1)
"""Longer than any signature is accepted, so that nothing is forgotten that could still be replayed."""


class Taken(StrEnum):
    """What became of an event."""

    NEW = "applied"
    AGAIN = "taken before"
    """Its sender tries again, since our answer did not reach it."""
    SUPERSEDED = "superseded"
    """A newer one of the same source and site came first."""


@dataclass(frozen=True, slots=True)
class Event:
    """One signed message. ``issued_at``: when what it says was decided."""

    source: str
    id: str
    site: str
    signed_at: datetime
    body_hash: bytes
    issued_at: datetime


async def take_event(conn: AsyncConnection[Any], event: Event) -> Taken:
    """Note ``event``, in the caller's transaction; whoever takes the same one waits until that ends.

    ConflictError: it is a replay, or its id was used for another body.
    """
    await conn.execute("DELETE FROM flux.webhook_events WHERE received_at < clock_timestamp() - %s", (KEPT,))
    cursor = await conn.execute(
        "INSERT INTO flux.webhook_events (source, id, site, signed_at, body_hash) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (event.source, event.id, event.site, event.signed_at, event.body_hash),
    )
    if not cursor.rowcount:
        await _take_again(conn, event)
        return Taken.AGAIN
    cursor = await conn.execute(
        "INSERT INTO flux.webhook_positions AS held (source, site, issued_at) VALUES (%s, %s, %s)"
        " ON CONFLICT (source, site) DO UPDATE SET issued_at = excluded.issued_at"
        " WHERE held.issued_at <= excluded.issued_at",
        (event.source, event.site, event.issued_at),
    )
    return Taken.NEW if cursor.rowcount else Taken.SUPERSEDED


async def _take_again(conn: AsyncConnection[Any], event: Event) -> None:
    cursor = await conn.execute(
        "SELECT signed_at, body_hash FROM flux.webhook_events WHERE source = %s AND id = %s FOR UPDATE",
        (event.source, event.id),
    )
    found = await cursor.fetchone()
    if found is None or bytes(found[1]) != event.body_hash:
        raise ConflictError(f"event {event.id} was sent before with another body")
    if found[0] >= event.signed_at:
        raise ConflictError(f"event {event.id} was taken already: this is a replay")
    await conn.execute(
        "UPDATE flux.webhook_events SET signed_at = %s WHERE source = %s AND id = %s",
        (event.signed_at, event.source, event.id),
    )
