"""One channel of a socket: who it is for, what it follows, and the messages that it is told."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flux.api.identity import Identity
from flux.api.realtime.catalogue import Catalogue, Table, find_table
from flux.api.realtime.cursor import Cursor
from flux.api.realtime.filters import Filter
from flux.api.realtime.groups import Binding, Group, Listener, group_identity, group_key
from flux.api.realtime.hub import Hub, has_seen
from flux.api.realtime.join import EVERY_TABLE, Asked
from flux.api.realtime.outbox import Outbox
from flux.api.realtime.protocol import Address, Event
from flux.api.realtime.rows import Resync, Row
from flux.errors import InputError

CURSOR_EVENT = "cursor"
RESYNC_EVENT = "resync"


@dataclass(frozen=True, slots=True)
class Following:
    """What a channel asked for, checked against what its caller may follow."""

    bindings: tuple[Binding, ...]
    tables: dict[str, Table]


async def resolve(catalogue: Catalogue, identity: Identity, asked: Sequence[Asked]) -> Following:
    """InputError or NotFoundError says what cannot be followed."""
    tables = await catalogue.tables(identity)
    bindings = []
    for one in asked:
        read = Filter()
        if one.table != EVERY_TABLE:
            table = find_table(tables, one.table)
            read = await catalogue.read_filter(identity, table, one.filter)
            unknown = [name for name in one.select or () if name not in table.columns]
            if unknown:
                raise InputError(f"select: {one.table} has no column {unknown[0]!r}")
        elif one.select is not None:
            raise InputError("select needs a table whose columns it is about")
        bindings.append(Binding(one.id, one.event, one.table, read, one.select, one.filter or ""))
    return Following(tuple(bindings), tables)


@dataclass(eq=False, slots=True)
class Channel(Listener):
    """``live``: it is told by the hub; until then it catches up from its cursor. ``task``: what does so."""

    address: Address
    identity: Identity
    asked: tuple[Asked, ...]
    following: Following
    wants_cursor: bool
    outbox: Outbox
    closed_by_server: Callable[["Channel"], None]
    live: bool = False
    task: asyncio.Task[None] | None = None
    _behind: bool = field(default=True)
    _subscribed: bool = field(default=False)

    def tell(self, row: Row, ids: dict[tuple[str, ...] | None, list[int]], cursor: Cursor) -> None:
        self._behind = True
        position = str(cursor) if self.wants_cursor else None
        for select, of_bindings in ids.items():
            numbers = json.dumps(sorted(of_bindings))
            self._send(Event.CHANGES, f'{{"ids":{numbers},"data":{row.data(select, position)}}}')

    def tell_resync(self, resync: Resync, cursor: Cursor) -> None:
        payload = resync.payload() | ({"cursor": str(cursor)} if self.wants_cursor else {})
        self.outbox.put(self.address.broadcast(RESYNC_EVENT, payload))

    def tell_subscribed(self) -> None:
        """Once: from here on changes are told."""
        if not self._subscribed:
            self._subscribed = True
            self.outbox.put(self.address.system("ok", "Subscribed to PostgreSQL"))

    def tell_position(self, cursor: Cursor, *, again: bool = False) -> None:
        """After rows were told; ``again``: also without, so that a client where nothing happens does not fall behind
        what the log holds."""
        if self.wants_cursor and (self._behind or again):
            self._behind = False
            self.outbox.put(self.address.broadcast(CURSOR_EVENT, {"cursor": str(cursor)}))

    def fail(self, reason: str) -> None:
        self.outbox.put(self.address.system("error", reason))
        self.outbox.put(self.address.message(Event.ERROR, json.dumps({"reason": reason})))
        self.closed_by_server(self)

    def close(self, reason: str | None = None) -> None:
        """For good: clients do not join again by themselves. ``reason``: told before."""
        if reason is not None:
            self.outbox.put(self.address.system("error", reason))
        self.outbox.put(self.address.message(Event.CLOSE, "{}"))

    def _send(self, event: Event, payload: str) -> None:
        self.outbox.put(self.address.message(event, payload))


async def follow(hub: Hub, channel: Channel, cursor: Cursor | None) -> None:
    """Tell ``channel`` all that came since ``cursor`` (None: nothing), and from then on by the hub."""
    poked = False
    while True:
        async with hub.between_turns() as position:
            if cursor is None or cursor == position:
                _go_live(hub, channel, position)
                return
            target = position
        if not has_seen(target, cursor):  # of another process that had come further than this one
            if not poked:  # (once: should a transaction be open that the cursor has seen, turns would follow turns)
                hub.poke()
                poked = True
            await hub.turned()
            continue
        cursor = await _catch_up(hub, channel, cursor, target)


def _go_live(hub: Hub, channel: Channel, position: Cursor) -> None:
    hub.add(channel, channel.identity, channel.following.bindings, channel.following.tables)
    channel.live = True
    channel.tell_subscribed()
    channel.tell_position(position)


async def _catch_up(hub: Hub, channel: Channel, cursor: Cursor, target: Cursor) -> Cursor:
    """At the pace of the client."""
    group = Group(group_identity(channel.identity))
    group.add(channel, channel.following.bindings, channel.following.tables)
    channel.tell_subscribed()
    async for told, position in hub.catch_up(group, cursor, target.since):
        await channel.outbox.room()
        group.tell(told, position)
    return target


async def move(hub: Hub, channel: Channel, identity: Identity, following: Following) -> None:
    """Another key for the same channel; between turns, so that nothing is missed and nothing told twice."""
    same = group_key(identity) == group_key(channel.identity)
    async with hub.between_turns():
        channel.identity = identity
        if not same and channel.live:
            hub.remove(channel)
            hub.add(channel, identity, following.bindings, following.tables)
        channel.following = following
