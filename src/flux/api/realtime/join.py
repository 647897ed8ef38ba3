"""What a client asks for when it joins a channel. Pure.

::

    {"config": {"postgres_changes": [{"event": "INSERT", "schema": "flux", "table": "mg_meter_readings",
                                      "filter": "device_id=eq.6f0c…"}]},
     "access_token": "ey…", "cursor": "now"}

``cursor`` may stand beside ``config``, in it, or in one of the subscriptions, since each client passes on another of
the three: a position to go on from, or ``now``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux.api.realtime.cursor import Cursor, parse_cursor
from flux.api.realtime.filters import parse_filter
from flux.errors import InputError

EVENTS = ("*", "INSERT", "UPDATE", "DELETE")
SCHEMAS = ("flux", "public", "*")
"""``public`` is what clients send that were told no schema: it means the same."""
EVERY_TABLE = "*"
FROM_NOW = "now"


@dataclass(frozen=True, slots=True)
class Asked:
    """One subscription of a channel; ``select`` None: all columns. ``echo``: as it was written, for the answer."""

    id: int
    event: str
    table: str
    filter: str | None
    select: tuple[str, ...] | None
    echo: Mapping[str, Any]

    @property
    def answer(self) -> dict[str, Any]:
        """What clients compare with what they sent."""
        return {"id": self.id, **self.echo}


@dataclass(frozen=True, slots=True)
class Join:
    """``wants_cursor``: each message says where the client is; ``cursor`` None: from now on."""

    asked: tuple[Asked, ...]
    token: str | None
    wants_cursor: bool
    cursor: Cursor | None
    presence: bool


def read_join(payload: Mapping[str, Any], most: int) -> Join:
    """The payload of ``phx_join``; InputError says what is wrong with it."""
    config = payload.get("config") or {}
    if not isinstance(config, dict):
        raise InputError("config is an object")
    given = config.get("postgres_changes") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InputError("config.postgres_changes is a list of objects")
    if len(given) > most:
        raise InputError(f"a channel has at most {most} subscriptions; open another one")
    token = payload.get("access_token")
    if token is not None and not isinstance(token, str):
        raise InputError("access_token is a text")
    asked = tuple(_asked(number, one) for number, one in enumerate(given, start=1))
    cursor = _cursor([payload, config, *given])
    presence = config.get("presence")
    return Join(
        asked,
        token,
        cursor is not None,
        parse_cursor(cursor) if cursor not in (None, FROM_NOW) else None,
        isinstance(presence, dict) and presence.get("enabled") is True,
    )


def _cursor(places: Sequence[Mapping[str, Any]]) -> str | None:
    given = [place["cursor"] for place in places if place.get("cursor") is not None]
    found = {one for one in given if isinstance(one, str)}
    if not all(isinstance(one, str) for one in given) or len(found) > 1:
        raise InputError("a channel has one cursor, a text")
    return next(iter(found), None)


def _asked(number: int, given: Mapping[str, Any]) -> Asked:
    event, schema, table = given.get("event"), given.get("schema"), given.get("table")
    if not isinstance(event, str) or event.upper() not in EVENTS:
        raise InputError(f"event is one of {', '.join(EVENTS)}")
    if schema not in (None, *SCHEMAS):
        raise InputError("schema is flux (or public, or *, which mean the same here)")
    if table is not None and not isinstance(table, str):
        raise InputError("table is a text")
    written, select = given.get("filter"), given.get("select")
    if written is not None and not isinstance(written, str):
        raise InputError("filter is a text")
    if written:
        parse_filter(written)
        if table in (None, EVERY_TABLE):
            raise InputError("a filter needs a table whose columns it is about")
    if select is not None and not (isinstance(select, list) and all(isinstance(name, str) for name in select)):
        raise InputError("select is a list of columns")
    echo = {
        name: given[name] for name in ("event", "schema", "table", "filter", "select") if given.get(name) is not None
    }
    return Asked(number, event.upper(), table or EVERY_TABLE, written or None, tuple(select) if select else None, echo)
