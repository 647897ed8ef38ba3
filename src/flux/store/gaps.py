"""Where readings of meters are missing, and the energy that was counted meanwhile.

Two kinds: a *split* is longer than the device's gap limit (24 h where it has none): no bucket has a share of its
energy, which is in ``rollup_gaps``. An *interpolated* span is shorter: buckets without a reading, each with its share.
What is returned is what the rollups know: changes that are not refreshed yet are not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from flux.model import METER_METRICS, MetricKind

_COUNTERS = [metric.name for metric in METER_METRICS if metric.kind is MetricKind.COUNTER]


class GapKind(StrEnum):
    """Where the energy of a gap is."""

    SPLIT = "split"  # in no bucket: only listed
    INTERPOLATED = "interpolated"  # shared out among the buckets, which have samples = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Readings of a meter are missing from ``from_time`` to ``to_time``; ``energy``: counted meanwhile, by counter.

    A split reaches from reading to reading; an interpolated span from the first bucket without a reading to the end of
    the last. Energy is in the counter's own unit (kWh, kVArh, kVAh).
    """

    device: str
    device_id: UUID
    kind: GapKind
    from_time: datetime
    to_time: datetime
    energy: dict[str, float]

    @property
    def length(self) -> timedelta:
        return self.to_time - self.from_time

    def overlaps(self, first: datetime, last: datetime) -> bool:
        """Whether any of [first, last] lies inside."""
        return self.from_time <= last and self.to_time >= first


@dataclass(frozen=True, slots=True)
class FilledGap:
    """What became of a gap; ``left``: the gaps that lie in it now, none: it is filled."""

    before: Gap
    left: tuple[Gap, ...]

    @property
    def missing(self) -> timedelta:
        """How much time is still without readings."""
        spans = [min(g.to_time, self.before.to_time) - max(g.from_time, self.before.from_time) for g in self.left]
        return sum(spans, timedelta())


_SPLITS = """
    SELECT d.name AS device, g.* FROM flux.mg_device_registry d
    CROSS JOIN LATERAL (
        SELECT device_id, from_time, to_time, jsonb_object_agg(counter, step) AS energy FROM flux.rollup_gaps
        WHERE device_id = d.id AND to_time > %(since)s AND from_time < %(until)s GROUP BY device_id, from_time, to_time
    ) g WHERE d.id = ANY(%(devices)s) ORDER BY d.name, g.from_time, g.to_time
"""
# buckets in a row: their time less 5 minutes for each one before is the same
_INTERPOLATED = """
    SELECT d.name AS device, g.* FROM flux.mg_device_registry d
    CROSS JOIN LATERAL (
        SELECT device_id, min(time_b) AS from_time, max(time_b) + interval '5 minutes' AS to_time,
               jsonb_strip_nulls(jsonb_build_object({sums})) AS energy
        FROM (
            SELECT *, time_b - interval '5 minutes' * row_number() OVER (ORDER BY time_b) AS row_of
            FROM flux.mg_meter_readings_5m_intermediate
            WHERE device_id = d.id AND time_b >= %(since)s AND time_b < %(until)s AND samples = 0
        ) empty GROUP BY device_id, row_of
    ) g WHERE d.id = ANY(%(devices)s) ORDER BY d.name, g.from_time
"""


async def list_gaps(conn: AsyncConnection[Any], devices: Sequence[UUID], since: datetime, until: datetime) -> list[Gap]:
    """Gaps of these meters that reach into since … until, by name and time; each device's are found by itself."""
    sums = sql.SQL(", ").join(
        sql.SQL("{}, sum({})").format(sql.Literal(name), sql.Identifier(f"{name}_delta")) for name in _COUNTERS
    )
    bounds = {"devices": list(devices), "since": since, "until": until}
    splits = await _gaps(conn, GapKind.SPLIT, sql.SQL(_SPLITS).format(), bounds)
    spans = await _gaps(conn, GapKind.INTERPOLATED, sql.SQL(_INTERPOLATED).format(sums=sums), bounds)
    return sorted([*splits, *spans], key=lambda gap: (gap.device, gap.from_time, gap.kind))


async def _gaps(conn: AsyncConnection[Any], kind: GapKind, query: sql.Composed, bounds: dict[str, Any]) -> list[Gap]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, bounds)
        rows = await cursor.fetchall()
    # a whole number of kWh comes out of JSON as an int
    return [Gap(**row | {"energy": {k: float(v) for k, v in row["energy"].items()}}, kind=kind) for row in rows]


def compare(
    before: Sequence[Gap], after: Sequence[Gap], touched: dict[UUID, tuple[datetime, datetime]]
) -> list[FilledGap]:
    """What became of the gaps that new readings (of each device from … to) reached into."""
    reached = [gap for gap in before if gap.device_id in touched and gap.overlaps(*touched[gap.device_id])]
    return [
        FilledGap(
            gap,
            tuple(
                left
                for left in after
                if left.device_id == gap.device_id and left.from_time < gap.to_time and left.to_time > gap.from_time
            ),
        )
        for gap in reached
    ]
