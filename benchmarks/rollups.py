"""Rollups from scratch, against the same columns grouped and stored by one plain statement; and one minute live.

The plain statement does what one would write without minding energy: mean, minimum and maximum, the last counter value
minus the first, no interpolation over a bucket's edge, no falls, no gaps, and only the 5-minute level. Both run in the
same server with durable settings, alternately; figures are medians, of the CPU time of the server's process first.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import Connection, sql

from flux.model import METER_METRICS, MetricKind
from flux.store.db import connect_sync
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 20
AIM_SCRATCH = 0.45
AIM_IRREGULAR = 0.3
LIVE_DEVICES = 1000
LIVE_MINUTES = 10
LIVE_WARM_UP = 5
MINUTES_PER_CHECKPOINT = 5  # checkpoint_timeout's default
AIM_LIVE_S = 0.3
START = datetime(2026, 1, 5, tzinfo=UTC)
LEVELS = [m.name for m in METER_METRICS if m.kind is MetricKind.LEVEL]
DEMAND = sql.SQL(
    "max({m}), date_trunc('minute', (array_agg(time ORDER BY {m} DESC))[1]), avg({m}), "
    "date_bin('5 minutes', min(time), '2000-01-01 00:00+00'), sum(abs({m}::double precision))"
)
WEIGHTED = sql.SQL(
    "sum({m}::double precision * abs({w})) / nullif(sum(abs({w}::double precision)), 0), "
    "sum({m}::double precision * abs({w})), sum(abs({w}::double precision))"
)
COUNTERS = [m.name for m in METER_METRICS if m.kind is MetricKind.COUNTER]


@dataclass(frozen=True)
class Scenario:
    """Readings ``i`` of a device, one a minute; ``counter`` is SQL for a counter's value in it."""

    name: str
    counter: str
    aim: float


CLEAN = Scenario("clean", "1000 + i * 0.37", AIM_SCRATCH)
IRREGULAR = (
    Scenario("one reset per device and day", "10 + (i % 1440) * 0.37", AIM_IRREGULAR),
    Scenario("1 % glitches", "CASE WHEN i % 100 = 61 THEN 0 ELSE 1000 + i * 0.37 END", AIM_IRREGULAR),
    Scenario("counters in every 5th reading", "CASE WHEN i % 5 = 0 THEN 1000 + i * 0.37 END", AIM_IRREGULAR),
)


def fill(conn: Connection[Any], devices: int, first: int, minutes: int, counter: str, every: int = 1) -> None:
    """Readings of so many minutes, one ``every`` so many, from ``first`` minutes after START, of so many devices."""
    columns = sql.SQL(", ").join(map(sql.Identifier, [*LEVELS, *COUNTERS]))
    values = sql.SQL(", ").join(
        [sql.SQL("20 + (i * {}) % 17").format(k) for k, _ in enumerate(LEVELS, start=3)]
        + [sql.SQL(counter)] * len(COUNTERS)
    )
    query = sql.SQL(
        """INSERT INTO flux.mg_meter_readings (device_id, time, {})
           SELECT id, {}::timestamptz + i * interval '1 minute', {}
           FROM (SELECT id FROM flux.mg_device_registry ORDER BY name LIMIT {}) d, generate_series({}, {}, {}) i"""
    )
    conn.execute(query.format(columns, START, values, devices, first, first + minutes - 1, every))


def plain_statement() -> sql.Composed:
    """Group and store the same columns of 5 minutes, without anything else."""
    level = sql.SQL("avg({0}), min({0}), max({0}), sum({0}::double precision), count({0})")
    counter = sql.SQL("min({0}), max({0}) - min({0})")
    parts = [level.format(sql.Identifier(m)) for m in LEVELS] + [counter.format(sql.Identifier(m)) for m in COUNTERS]
    names = [f"{m}_{s}" for m in LEVELS for s in ("avg", "min", "max", "sum", "count")]
    names += [f"{m}_{s}" for m in COUNTERS for s in ("min", "delta")]
    for metric in METER_METRICS:
        own = {"m": sql.Identifier(metric.name), "w": sql.Identifier(metric.weight or "")}
        if metric.demand:
            names += [f"{metric.name}_{s}" for s in ("max_1m", "max_1m_at", "max_5m", "max_5m_at", "abs_sum")]
            parts.append(DEMAND.format(**own))
        if metric.weight is not None:
            names += [f"{metric.name}_{s}" for s in ("weighted", "weighted_sum", "weight")]
            parts.append(WEIGHTED.format(**own))
    return sql.SQL(
        """INSERT INTO plain (device_id, time_b, samples, {})
           SELECT device_id, date_bin('5 minutes', time, '2000-01-01 00:00+00'), count(*), {}
           FROM flux.mg_meter_readings GROUP BY 1, 2"""
    ).format(sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join(parts))


@dataclass(frozen=True, order=True)
class Took:
    """Seconds: of CPU of the server's process, which others on the machine hardly change, and by the clock."""

    cpu: float
    clock: float


def server_cpu(conn: Connection[Any]) -> float:
    """Seconds of CPU that the server's process of this session has used (Linux tells in /proc)."""
    fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(conn: Connection[Any], statement: Any) -> Took:
    began, used = time.perf_counter(), server_cpu(conn)
    conn.execute(statement)
    return Took(server_cpu(conn) - used, time.perf_counter() - began)


def add_devices(conn: Connection[Any], count: int) -> None:
    conn.execute(
        """INSERT INTO flux.mg_device_registry (name, type, site)
           SELECT 'METER-' || lpad(n::text, 5, '0'), 'meter', 'WLCE' FROM generate_series(1, %s) n""",
        (count,),
    )


def from_scratch(conn: Connection[Any], scenario: Scenario, rows: int, rounds: int) -> tuple[Took, Took]:
    """How long the refresh and the plain statement took."""
    minutes = rows // DEVICES
    conn.execute("TRUNCATE flux.mg_meter_readings")
    conn.execute("CALL flux.refresh_rollups()")
    conn.execute(
        "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (START, START + timedelta(minutes=minutes))
    )
    fill(conn, DEVICES, 0, minutes, scenario.counter)
    conn.execute("VACUUM ANALYZE flux.mg_meter_readings")
    plain = plain_statement()
    took: dict[str, list[Took]] = {"plain": [], "refresh": []}
    for _ in range(rounds):
        conn.execute("DROP TABLE IF EXISTS plain")
        conn.execute("CREATE TABLE plain (LIKE flux.mg_meter_readings_5m_intermediate INCLUDING ALL)")
        conn.execute("CHECKPOINT")
        took["plain"].append(timed(conn, plain))
        conn.execute(
            "TRUNCATE flux.mg_meter_readings_5m_intermediate, flux.mg_meter_readings_30m_intermediate, "
            "flux.mg_meter_readings_1h, flux.rollup_changes, flux.counter_events, flux.rollup_gaps"
        )
        conn.execute("""INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time)
                        SELECT device_id, 'meter', min(time), max(time) FROM flux.mg_meter_readings
                        GROUP BY device_id, date_bin('1 hour', time, '2000-01-01 00:00+00')""")
        conn.execute("CHECKPOINT")
        took["refresh"].append(timed(conn, "CALL flux.refresh_rollups(10)"))
    return statistics.median_low(took["refresh"]), statistics.median_low(took["plain"])


def live_minutes(conn: Connection[Any], history_days: int) -> Took:
    """How long it takes to bring the rollups up to date with one minute's new readings of many devices.

    Whatever the history, it has as many readings: with 30 days one each half-hour, and the last hour in full. Of the
    minutes every fifth follows a checkpoint, as on a server left as it is: it writes whole pages to the log.
    """
    history_minutes = history_days * 1440
    conn.execute("TRUNCATE flux.mg_meter_readings")
    conn.execute("CALL flux.refresh_rollups()")
    conn.execute(
        "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)",
        (START, START + timedelta(minutes=history_minutes + 100)),
    )
    fill(conn, LIVE_DEVICES, 0, history_minutes - 60, CLEAN.counter, every=history_days)
    fill(conn, LIVE_DEVICES, history_minutes - 60, 60, CLEAN.counter)
    conn.execute("CALL flux.refresh_rollups()")
    conn.execute("VACUUM ANALYZE")
    took = []
    for minute in range(LIVE_WARM_UP + LIVE_MINUTES):
        fill(conn, LIVE_DEVICES, history_minutes + minute, 1, CLEAN.counter)
        if minute % MINUTES_PER_CHECKPOINT == 0:
            conn.execute("CHECKPOINT")
        took.append(timed(conn, "CALL flux.refresh_rollups(1000)"))
    took = took[LIVE_WARM_UP:]
    mean = Took(statistics.mean(t.cpu for t in took), statistics.mean(t.clock for t in took))
    print(
        f"rollups, one minute of {LIVE_DEVICES} devices, {history_days} days of history: {mean.cpu:.3f} s CPU "
        f"({min(t.cpu for t in took):.2f} to {max(t.cpu for t in took):.2f}), {mean.clock:.3f} s by the clock "
        f"(aim < {AIM_LIVE_S} s)"
    )
    return mean


def main(rows: int = 200_000, rounds: int = 3, history_days: int = 30) -> float:
    """Print all figures; returns the ratio of clean data."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            with connect_sync(server.dsn, autocommit=True) as conn:
                add_devices(conn, LIVE_DEVICES)
                clean, plain = from_scratch(conn, CLEAN, rows, rounds)
                print(
                    f"rollups: {rows / clean.cpu:,.0f} rows/s of CPU, plain statement {rows / plain.cpu:,.0f}: "
                    f"ratio {plain.cpu / clean.cpu:.2f}, {plain.clock / clean.clock:.2f} by the clock "
                    f"(aim ≥ {CLEAN.aim})"
                )
                for scenario in IRREGULAR:
                    odd, _ = from_scratch(conn, scenario, rows, 1)
                    print(
                        f"rollups, {scenario.name}: {rows / odd.cpu:,.0f} rows/s of CPU: {clean.cpu / odd.cpu:.2f} × "
                        f"of clean, {clean.clock / odd.clock:.2f} by the clock (aim ≥ {scenario.aim})"
                    )
                few, more = live_minutes(conn, 1), live_minutes(conn, history_days)
                print(
                    f"rollups, one minute with {history_days} times the history: {more.cpu / few.cpu:.2f} × of CPU, "
                    f"{more.clock / few.clock:.2f} by the clock (aim ≤ 1.2)"
                )
    return plain.cpu / clean.cpu


if __name__ == "__main__":
    main(*(int(argument.replace("_", "")) for argument in sys.argv[1:]))
