"""What Axle's dispatch means as market data, and what the store can tell it of a site."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg import AsyncConnection

from flux.control.state import ScheduleStep
from flux.errors import NotFoundError
from flux.model import SETTLEMENT_PERIOD, MarketDataType, MarketValue, period_start

_FRESH = timedelta(minutes=5)
_TOGETHER = timedelta(seconds=90)
_DIRECTION = {"charge_max": -1.0, "discharge_max": 1.0}

Label = Literal["boundary_import_kw", "battery_inverter_import_kw", "battery_state_of_charge_pct"]


async def dispatch_values(
    conn: AsyncConnection[Any], site: str, steps: Sequence[ScheduleStep], *, source: str = "axle"
) -> list[MarketValue]:
    """Market data of type 4, kW, + discharge: full power of the site's batteries where a step asks for it, 0 after it.

    ``avoid_import`` and ``avoid_export`` ask for no power of their own and give none. What was stored for the future
    and is no longer asked for becomes 0.
    """
    cursor = await conn.execute(
        """SELECT sum((metadata ->> 'max_power_kw')::float8) FROM flux.mg_device_registry
           WHERE site = %s AND type = 'bess' AND state <> 'decommissioned'""",
        (site,),
    )
    ((full_kw,),) = await cursor.fetchall()
    asked: dict[datetime, tuple[float, str]] = {}
    if full_kw is not None:
        for step in reversed(steps):  # of several at once the first counts
            if (direction := _DIRECTION.get(step.action)) is not None:
                asked |= dict.fromkeys(_starts(step), (direction * full_kw, step.action))
        for step in steps:
            if step.action in _DIRECTION:
                asked.setdefault(step.end, (0.0, "end"))
    cursor = await conn.execute(
        """SELECT time FROM flux.market_data
           WHERE type = %s AND site = %s AND time > clock_timestamp() AND value <> 0""",
        (MarketDataType.AXLE_DISPATCH, site),
    )
    for (time,) in await cursor.fetchall():
        asked.setdefault(time, (0.0, "withdrawn"))
    return [
        MarketValue(
            type=MarketDataType.AXLE_DISPATCH, time=time, value=kw, site=site,
            metadata={"source": source, "action": action},
        )
        for time, (kw, action) in sorted(asked.items())
    ]  # fmt: skip


def _starts(step: ScheduleStep) -> list[datetime]:
    """Its start, and each half hour in it: a value holds no longer than that."""
    times, time = [step.start], period_start(step.start) + SETTLEMENT_PERIOD
    while time < step.end:
        times.append(time)
        time += SETTLEMENT_PERIOD
    return times


async def newest_telemetry(
    conn: AsyncConnection[Any], site: str, *, site_meter: str, bess: Sequence[str], bess_meter: Sequence[str] = ()
) -> list[tuple[Label, datetime, float]]:
    """What is known now of a site's boundary (kW, + import), its inverters (kW, + charge) and stored energy (%).

    Readings older than 5 minutes are left out, and sums over several devices whose readings are not of about the same
    time. NotFoundError for a device that the site does not have.
    """
    readings = await _newest(conn, site, [site_meter, *bess, *bess_meter])
    found: list[tuple[Label, datetime, float]] = []
    for label, names, weighted in (
        ("boundary_import_kw", [site_meter], False),
        ("battery_inverter_import_kw", list(bess_meter), False),
        ("battery_state_of_charge_pct", list(bess), True),
    ):
        values = [readings[name] for name in names]
        times = [time for time, _, _ in values if time is not None]
        if not values or len(times) < len(values) or max(times) - min(times) > _TOGETHER:
            continue
        amounts = [(value, weight if weighted else 1.0) for _, value, weight in values]
        total = sum(value * weight for value, weight in amounts)
        if weighted:
            total = min(max(total / sum(weight for _, weight in amounts), 0.0), 100.0)
        found.append((label, min(times), total))  # type: ignore[arg-type]  # the three labels above
    return found


async def _newest(
    conn: AsyncConnection[Any], site: str, names: Sequence[str]
) -> dict[str, tuple[datetime | None, float, float]]:
    """Of each device: time, value (a battery's SoE in %, a meter's power in kW) and capacity; None: nothing fresh."""
    cursor = await conn.execute(
        """SELECT d.name, r.time, coalesce(r.value, 0), coalesce((d.metadata ->> 'capacity_kwh')::float8, 1)
           FROM flux.mg_device_registry d LEFT JOIN LATERAL (
               (SELECT b.time, b.soe::float8 AS value FROM flux.mg_bess_readings b
                WHERE d.type = 'bess' AND b.device_id = d.id AND b.soe IS NOT NULL
                  AND b.time > clock_timestamp() - %(fresh)s ORDER BY b.time DESC LIMIT 1)
               UNION ALL
               (SELECT m.time, m.power_total_active::float8 FROM flux.mg_meter_readings m
                WHERE d.type = 'meter' AND m.device_id = d.id AND m.power_total_active IS NOT NULL
                  AND m.time > clock_timestamp() - %(fresh)s ORDER BY m.time DESC LIMIT 1)
           ) r ON true
           WHERE d.site = %(site)s AND d.name = ANY(%(names)s) AND d.state <> 'decommissioned'""",
        {"site": site, "names": list(names), "fresh": _FRESH},
    )
    found = {name: (time, value, capacity) for name, time, value, capacity in await cursor.fetchall()}
    if missing := [name for name in names if name not in found]:
        raise NotFoundError(f"site {site} has no device {', '.join(missing)}")
    return found
