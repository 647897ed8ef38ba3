"""Which groups a page can be for at all, so that a commit at one site is not asked for by the keys of all others.

It only spares questions: what a group is told is still fetched as that group, so the database alone decides. Where a
change may be of any site, every group is asked.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from flux.api.database import as_caller
from flux.api.realtime.log import READER, Change, Entry, Pool
from flux.store.changes import FOLLOWED
from flux.store.rights import TABLES, Fence

_BY_DEVICE = frozenset(table.name for table in TABLES if table.fence in (Fence.DEVICE, Fence.MEMBER))
_BY_SITE = frozenset(table.name for table in TABLES if table.fence is Fence.SITE)
_SITES = "SELECT id, site FROM flux_api.mg_device_registry WHERE id = ANY (%s)"


@dataclass(slots=True)
class Part:
    """What of a page one group is asked for."""

    changes: list[Change] = field(default_factory=list)
    spans: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reach:
    """A page by the sites that it can concern."""

    whole: Part
    anywhere: Part
    by_site: dict[str, Part]

    def of(self, sites: frozenset[str] | None) -> Part:
        """For callers who see ``sites`` (None: every site). Each change once, in no order."""
        if sites is None:
            return self.whole
        parts = [self.anywhere, *(self.by_site[site] for site in sites if site in self.by_site)]
        if len(parts) == 1:
            return parts[0]
        changes = {(change.entry, change.row): change for part in parts for change in part.changes}
        spans = {entry.id: entry for part in parts for entry in part.spans}
        return Part(list(changes.values()), list(spans.values()))


async def reach_of(pool: Pool, changes: Sequence[Change], spans: Sequence[Entry]) -> Reach:
    """Asks once where the devices are; who is asked later and no longer sees them is not told either."""
    homes = await _homes(pool, changes, spans)
    anywhere, by_site = Part(), defaultdict[str, Part](Part)
    for change in changes:
        sites = _sites_of_change(change, homes)
        for part in [anywhere] if sites is None else [by_site[site] for site in sites]:
            part.changes.append(change)
    for entry in spans:
        sites = _sites_of_span(entry, homes)
        for part in [anywhere] if sites is None else [by_site[site] for site in sites]:
            part.spans.append(entry)
    return Reach(Part(list(changes), list(spans)), anywhere, dict(by_site))


async def _homes(pool: Pool, changes: Iterable[Change], spans: Iterable[Entry]) -> dict[UUID, str]:
    devices = {change.device for change in changes if change.device is not None}
    devices |= {device for entry in spans for device in entry.devices or ()}
    if not devices:
        return {}
    async with as_caller(pool, READER) as conn:
        cursor = await conn.execute(_SITES, (list(devices),))
        return dict(await cursor.fetchall())


def _sites_of_change(change: Change, homes: dict[UUID, str]) -> set[str] | None:
    """None: any. Rows with a site of their own are noted with the one before the change, and may have another now."""
    home = {homes[change.device]} if change.device in homes else set()
    if change.table in _BY_DEVICE:
        return home
    if change.table in _BY_SITE and change.site is not None:
        if FOLLOWED[change.table].device is not None:  # the registry: where it was, and where it is
            return home | {change.site}
        if change.op != "UPDATE":
            return {change.site}
    return None


def _sites_of_span(entry: Entry, homes: dict[UUID, str]) -> set[str] | None:
    if entry.table not in _BY_DEVICE or not entry.devices:
        return None
    return {homes[device] for device in entry.devices if device in homes}
