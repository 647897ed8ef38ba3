"""Reading back: newest readings, ranges, rollups. Rows are dictionaries in the order of their columns.

Spans are half-open, since ≤ time < until. Powers, units and signs are those of :mod:`flux.model.readings`.
"""

from datetime import datetime
from typing import Any, Literal

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from flux.errors import InputError
from flux.model import Device, DeviceType
from flux.store import rollups as store_rollups
from flux.store.ingest import KIND_BY_NAME, Kind

RollupLevel = Literal["5m", "30m", "1h"]
ROLLUP_LEVELS: tuple[RollupLevel, ...] = ("5m", "30m", "1h")

Row = dict[str, Any]

# One step into the key's index for each device: the cost does not grow with the readings.
_LATEST = """
    SELECT d.name AS device, d.id AS device_id, d.site, d.type, r.time,
           extract(epoch FROM now() - r.time)::double precision AS age_s, {columns}
    FROM flux.mg_device_registry d
    LEFT JOIN LATERAL (
        SELECT * FROM {table} WHERE device_id = d.id ORDER BY time DESC LIMIT 1
    ) r ON true
    WHERE d.type = %(type)s AND d.state <> 'decommissioned' AND (%(site)s::text IS NULL OR d.site = %(site)s)
"""
_RANGE = """
    SELECT * FROM (
        SELECT time, %(name)s::text AS device, {columns} FROM {table}
        WHERE device_id = %(id)s AND time >= %(since)s AND time < %(until)s
        ORDER BY time DESC LIMIT %(limit)s
    ) newest ORDER BY time
"""


async def latest_readings(conn: AsyncConnection[Any], *, site: str | None = None) -> list[Row]:
    """The newest reading of every device that is not decommissioned, by site and name.

    ``age_s`` counts to the database's now; it and ``time`` are None for a device that has no reading.
    """
    rows: list[Row] = []
    for kind in KIND_BY_NAME.values():
        rows += await _fetch(conn, _statement(_LATEST, kind, "r"), {"type": kind.name, "site": site})
    return sorted(rows, key=lambda row: (row["site"], row["device"]))


async def readings(
    conn: AsyncConnection[Any], device: Device, since: datetime, until: datetime, *, limit: int = 1000
) -> list[Row]:
    """The readings of a device with since ≤ time < until: the newest ``limit`` of them, oldest first."""
    kind = KIND_BY_NAME[device.type]
    bounds = {"id": device.id, "name": device.name, "since": since, "until": until, "limit": limit}
    return await _fetch(conn, _statement(_RANGE, kind), bounds)


async def rollups(
    conn: AsyncConnection[Any], device: Device, level: RollupLevel, since: datetime, until: datetime
) -> list[Row]:
    """The buckets of a device with since ≤ time_b < until, oldest first."""
    check_level(level)
    bounds = {"id": device.id, "since": since, "until": until}
    if device.type is DeviceType.METER:
        function = sql.Identifier("flux", f"get_meter_readings_{level}")
        query = sql.SQL("SELECT * FROM {}(%(since)s, %(until)s, ARRAY[%(id)s::uuid]) ORDER BY time_b").format(function)
        return await _fetch(conn, query, bounds)
    query = sql.SQL(
        """SELECT * FROM {}
           WHERE device_id = %(id)s AND time_b >= %(since)s AND time_b < %(until)s ORDER BY time_b"""
    ).format(sql.Identifier("flux", f"mg_bess_readings_{level}"))
    return await _fetch(conn, query, bounds)


def check_level(text: str) -> RollupLevel:
    """The level of this name; raises InputError for one that there is not."""
    for level in ROLLUP_LEVELS:
        if level == text:
            return level
    raise InputError(f"level {text!r}: one of {', '.join(ROLLUP_LEVELS)}")


async def rollup_lag_s(conn: AsyncConnection[Any]) -> float:
    """Seconds since the oldest change that the rollups don't have yet; 0 when they have everything."""
    lag = await store_rollups.lag(conn)
    return 0.0 if lag is None else lag.age.total_seconds()


async def worker_jobs(conn: AsyncConnection[Any]) -> list[Row]:
    """What the workers do in the background, by name: ``age_s`` since it last succeeded (None: never yet), ``failure``
    of its last turn (None: none), ``every_s`` how often it is done."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """SELECT name, every_s, extract(epoch FROM clock_timestamp() - succeeded_at)::float8 AS age_s,
                      succeeded_at, failed_at, failure
               FROM flux.worker_jobs ORDER BY name"""
        )
        return await cursor.fetchall()


def _statement(text: str, kind: Kind, alias: str | None = None) -> sql.Composed:
    names = [(alias, m.name) if alias else (m.name,) for m in kind.metrics]
    columns = sql.SQL(", ").join(sql.Identifier(*name) for name in names)
    return sql.SQL(text).format(table=sql.Identifier("flux", kind.table), columns=columns)


async def _fetch(conn: AsyncConnection[Any], query: sql.Composed, parameters: dict[str, Any]) -> list[Row]:
    # text results: a real then reads back as the shortest number that means it (50.1, not 50.09999847)
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()
