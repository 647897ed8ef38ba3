"""What a settlement is made of, read from the store: meters, half hours, gaps, counter events, prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from flux.analysis.tariff import Market
from flux.errors import InputError
from flux.model import MarketDataType
from flux.registry import get_device, group_members
from flux.store.gaps import Gap, list_gaps
from flux.store.market import market_values

Row = TypeVar("Row")

IMPORTED, EXPORTED = "energy_imported_active", "energy_exported_active"
MARKET_TYPES: Mapping[Market, MarketDataType] = {
    Market.IMBALANCE: MarketDataType.IMBALANCE_PRICE,
    Market.DAY_AHEAD: MarketDataType.WHOLESALE_PRICE,
}


@dataclass(frozen=True, slots=True)
class SettledMeter:
    """A meter of the report. ``role``: primary meters are settled, others are compared with them.

    ``final_before``: what ends by then only late or corrected readings can change; None: it has no readings.
    ``pending``: changes of it in the span that the rollups do not have yet.
    """

    device_id: UUID
    name: str
    site: str
    meter_type: str | None
    role: str
    final_before: datetime | None
    pending: int

    @property
    def settled(self) -> bool:
        return self.role == "primary"


@dataclass(frozen=True, slots=True)
class HalfHour:
    """What one meter counted in one half hour, kWh; None: not known. ``samples`` 0: it lies in a gap."""

    device_id: UUID
    time: datetime
    samples: int
    import_kwh: float | None
    export_kwh: float | None


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """A counter fell, or leapt, at ``time``, and was taken for ``kind``; ``step`` kWh were counted, None: none."""

    device_id: UUID
    counter: str
    time: datetime
    kind: str
    good_value: float
    value: float
    step: float | None
    needs_review: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """Values of a counter that are left out of the rollups, by what marked them."""

    device_id: UUID
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the store knows of a span; prices in £/MWh by the start of their half hour."""

    meters: tuple[SettledMeter, ...]
    half_hours: tuple[HalfHour, ...]
    gaps: tuple[Gap, ...]
    events: tuple[CounterEvent, ...]
    marks: tuple[Marks, ...]
    prices: Mapping[Market, Mapping[datetime, float]]


async def meters_of(conn: AsyncConnection[Any], group: str | None, devices: Sequence[str]) -> dict[UUID, str]:
    """Role by id of the meters that are named: by a group with its roles, or one by one, each of them primary."""
    if group is not None:
        roles = {member.device_id: member.role for member in await group_members(conn, group)}
        if not roles:
            raise InputError(f"group {group} has no member")
        return roles
    return {(await get_device(conn, name)).id: "primary" for name in devices}


async def read_facts(
    conn: AsyncConnection[Any],
    roles: Mapping[UUID, str],
    start: datetime,
    end: datetime,
    *,
    markets: Sequence[Market],
    now: datetime,
    as_of: datetime | None = None,
) -> Facts:
    """All of start ≤ time < end, from one state of the database; ``as_of``: prices as they were known then.

    ``now`` tells what is final.
    """
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        bounds = {"ids": list(roles), "start": start, "end": end, "now": now}
        meters = await _meters(conn, roles, bounds)
        return Facts(
            meters=meters,
            half_hours=tuple(await _rows(conn, HalfHour, _HALF_HOURS, bounds)),
            gaps=tuple(await list_gaps(conn, list(roles), start, end)),
            events=tuple(await _rows(conn, CounterEvent, _EVENTS, bounds)),
            marks=tuple(await _rows(conn, Marks, _MARKS, bounds)),
            prices=await _prices(conn, meters, start, end, markets, as_of),
        )


_METERS = """
    SELECT r.id AS device_id, r.name, r.site, r.metadata ->> 'meter_type' AS meter_type, '' AS role,
           flux.rollup_final_before(r.id, %(now)s) AS final_before,
           (SELECT count(*) FROM flux.rollup_changes c WHERE c.device_id = r.id
              AND c.to_time >= %(start)s AND c.from_time < %(end)s)::int AS pending
    FROM flux.mg_device_registry r WHERE r.id = ANY(%(ids)s) AND r.type = 'meter'
"""
_HALF_HOURS = f"""
    SELECT device_id, time_b AS time, samples, {IMPORTED}_delta AS import_kwh, {EXPORTED}_delta AS export_kwh
    FROM flux.get_meter_readings_30m(%(start)s, %(end)s, %(ids)s) ORDER BY device_id, time_b
"""  # noqa: S608 - two names of our own columns
_EVENTS = """
    SELECT device_id, counter, time, kind, good_value, value, step,
           needs_review OR kind = 'undecided' AS needs_review
    FROM flux.counter_events WHERE device_id = ANY(%(ids)s) AND counter = ANY(%(counters)s)
      AND time >= %(start)s AND good_time < %(end)s ORDER BY device_id, time, counter
"""
_MARKS = """
    SELECT device_id, reason, count(*)::int AS count FROM flux.reading_marks
    WHERE device_id = ANY(%(ids)s) AND time >= %(start)s AND time < %(end)s AND metric = ANY(%(counters)s)
      AND lifted_at IS NULL GROUP BY device_id, reason ORDER BY device_id, reason
"""


async def _meters(
    conn: AsyncConnection[Any], roles: Mapping[UUID, str], bounds: Mapping[str, Any]
) -> tuple[SettledMeter, ...]:
    """In the order of ``roles``; batteries of a group are no meters and are left out."""
    by_id = {meter.device_id: meter for meter in await _rows(conn, SettledMeter, _METERS, bounds)}
    found = [by_id[device_id] for device_id in roles if device_id in by_id]
    if not any(roles[meter.device_id] == "primary" for meter in found):
        raise InputError("no meter to settle: none of what is named is a meter with the role primary")
    return tuple(
        SettledMeter(m.device_id, m.name, m.site, m.meter_type, roles[m.device_id], m.final_before, m.pending)
        for m in found
    )


async def _prices(
    conn: AsyncConnection[Any],
    meters: Sequence[SettledMeter],
    start: datetime,
    end: datetime,
    markets: Sequence[Market],
    as_of: datetime | None,
) -> dict[Market, dict[datetime, float]]:
    sites = {meter.site for meter in meters if meter.settled}
    site = sites.pop() if len(sites) == 1 else None  # prices of one site only count where all meters are there
    types = {int(MARKET_TYPES[market]): market for market in markets}
    prices: dict[Market, dict[datetime, float]] = {market: {} for market in markets}
    for value in await market_values(conn, list(types), start, end, as_of=as_of, site=site):
        prices[types[value.type]][value.time] = value.value
    return prices


async def _rows(conn: AsyncConnection[Any], kind: type[Row], query: str, bounds: Mapping[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=class_row(kind)) as cursor:
        await cursor.execute(query.encode(), {**bounds, "counters": [IMPORTED, EXPORTED]})
        return await cursor.fetchall()
