"""How battery power and each command source went with price and imbalance, over readings joined with market data.

A reading stands for the time until the next one of its device, at most 10 minutes, as in the rollups; the last one of
the span for none. Power is the battery's target power, kW, + discharge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from flux.model import MarketDataType

# One pass: readings with their price and NIV side by side, weighed by the time that each stands for.
_CORRELATE = """
    WITH joined AS (
        SELECT device_id, time, target_power::float8 AS power, command_source,
            max(value) FILTER (WHERE type = %(price)s) AS price, max(value) FILTER (WHERE type = %(niv)s) AS niv
        FROM flux.bess_with_market(%(start)s, %(end)s, %(devices)s::uuid[], ARRAY[%(price)s, %(niv)s]::integer[],
                                   %(as_then)s)
        WHERE target_power IS NOT NULL
        GROUP BY device_id, time, target_power, command_source
    ), held AS (
        SELECT *, coalesce(date_part('epoch', CASE WHEN next_time IS NOT NULL THEN
            least(next_time, time + interval '10 minutes') - time END) / 3600, 0) AS hours
        FROM (SELECT *, lead(time) OVER (PARTITION BY device_id ORDER BY time) AS next_time FROM joined) j
    )
    SELECT d.name AS device, h.command_source, grouping(h.command_source) = 1 AS every_source,
        count(*) AS readings, count(h.price) AS with_price,
        count(h.niv) AS with_niv, coalesce(sum(h.hours), 0) AS hours,
        sum(h.power * h.hours) / nullif(sum(h.hours), 0) AS mean_power_kw,
        coalesce(sum(greatest(h.power, 0) * h.hours), 0) AS discharged_kwh,
        coalesce(sum(greatest(-h.power, 0) * h.hours), 0) AS charged_kwh,
        sum(h.price * h.hours) / nullif(sum(h.hours) FILTER (WHERE h.price IS NOT NULL), 0) AS mean_price,
        sum(h.price * greatest(h.power, 0) * h.hours)
            / nullif(sum(greatest(h.power, 0) * h.hours) FILTER (WHERE h.price IS NOT NULL), 0) AS discharge_price,
        sum(h.price * greatest(-h.power, 0) * h.hours)
            / nullif(sum(greatest(-h.power, 0) * h.hours) FILTER (WHERE h.price IS NOT NULL), 0) AS charge_price,
        corr(h.power, h.price) AS power_price_corr, corr(h.power, h.niv) AS power_niv_corr,
        sum(h.hours) FILTER (WHERE h.niv > 0) / nullif(sum(h.hours) FILTER (WHERE h.niv IS NOT NULL), 0) AS share_short
    FROM held h JOIN flux.mg_device_registry d ON d.id = h.device_id
    GROUP BY GROUPING SETS ((d.name), (d.name, h.command_source))
    ORDER BY d.name, grouping(h.command_source) DESC, h.command_source
"""
_POINTS = """
    SELECT time, power, command_source, price, niv FROM (
        SELECT b.time, b.target_power::float8 AS power, b.command_source,
            max(b.value) FILTER (WHERE b.type = %(price)s) AS price, max(b.value) FILTER (WHERE b.type = %(niv)s) AS niv
        FROM flux.bess_with_market(%(start)s, %(end)s, %(devices)s::uuid[], ARRAY[%(price)s, %(niv)s]::integer[],
                                   %(as_then)s) b
        WHERE b.target_power IS NOT NULL
        GROUP BY b.device_id, b.time, b.target_power, b.command_source) p
    ORDER BY time
"""


@dataclass(frozen=True, slots=True)
class Correlation:
    """One device under one command source (None: not known), or under all of them together (``every_source``).

    Prices in £/MWh; ``discharge_price`` and ``charge_price`` are weighed by energy, ``mean_price`` by time; the
    coefficients are Pearson's over readings, None where one side never changes; ``share_short``: of the time with a
    known NIV, how much the system was short.
    """

    device: str
    command_source: int | None
    every_source: bool
    readings: int
    with_price: int
    with_niv: int
    hours: float
    mean_power_kw: float | None
    discharged_kwh: float
    charged_kwh: float
    mean_price: float | None
    discharge_price: float | None
    charge_price: float | None
    power_price_corr: float | None
    power_niv_corr: float | None
    share_short: float | None


async def correlate(
    conn: AsyncConnection[Any],
    start: datetime,
    end: datetime,
    *,
    devices: Sequence[UUID] | None = None,
    price_type: int = MarketDataType.IMBALANCE_PRICE,
    niv_type: int = MarketDataType.NIV,
    as_then: bool = False,
) -> list[Correlation]:
    """For each battery with readings in start ≤ time < end: all of them first, then each command source."""
    async with conn.cursor(row_factory=class_row(Correlation)) as cursor:
        await cursor.execute(_CORRELATE, _parameters(start, end, devices, price_type, niv_type, as_then))
        return await cursor.fetchall()


async def points(
    conn: AsyncConnection[Any],
    start: datetime,
    end: datetime,
    *,
    devices: Sequence[UUID] | None = None,
    price_type: int = MarketDataType.IMBALANCE_PRICE,
    niv_type: int = MarketDataType.NIV,
    as_then: bool = False,
) -> list[dict[str, Any]]:
    """The readings behind :func:`correlate`: time, power, command_source, price and niv of each."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_POINTS, _parameters(start, end, devices, price_type, niv_type, as_then))
        return await cursor.fetchall()


def _parameters(
    start: datetime, end: datetime, devices: Sequence[UUID] | None, price_type: int, niv_type: int, as_then: bool
) -> dict[str, Any]:
    return {
        "start": start,
        "end": end,
        "devices": None if devices is None else list(devices),
        "price": int(price_type),
        "niv": int(niv_type),
        "as_then": as_then,
    }
