"""Batteries' rollups against a plain reference, whatever comes in which order; and where their energy comes from."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import zip_longest
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, Connection
from psycopg.types.json import Jsonb
from tests.store.rollup_checks import MICROSECONDS
from tests.store.rollup_reference import BUCKET, HOUR, MINUTE, US
from tests.support import NOON, add_device, bess_reading, delete_all_readings, fetch, meter_reading

from flux.store.ingest import ingest
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
START = datetime(2026, 1, 5, 23, 52, 30, tzinfo=UTC)
TABLES = {BUCKET: "mg_bess_readings_5m", HOUR // 2: "mg_bess_readings_30m", HOUR: "mg_bess_readings_1h"}
Row = tuple[int, float | None, float | None, int | None, int | None]
"""Time, SoE, target power, blocks, command source."""


@dataclass
class Bucket:
    """What one bucket of a battery should be; energies kWh."""

    samples: int = 0
    soe: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    held: Fraction = Fraction(0)
    held_us: int = 0
    charged: Fraction = Fraction(0)
    discharged: Fraction = Fraction(0)
    commands: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    origins: set[str] = field(default_factory=set)


def reference(rows: list[Row], hold: int, meter: dict[int, tuple[Fraction, Fraction]], width: int) -> dict[int, Bucket]:
    """Buckets of ``width`` by the words of docs/rollups.md: each reading holds until the next one, at most ``hold``."""
    fine: dict[int, Bucket] = defaultdict(Bucket)
    for row, after in zip_longest(rows, rows[1:]):
        time, soe, power, blocks, source = row
        until = time if after is None else min(time + hold, after[0])
        own = fine[time // BUCKET * BUCKET]
        own.samples += 1
        own.soe += [] if soe is None else [soe]
        own.blocks += [] if blocks is None else [blocks]
        for start in range(time // BUCKET * BUCKET, until, BUCKET):
            length = min(until, start + BUCKET) - max(time, start)
            _hold(fine[start], length, soe, power, source)
    for start, (charged, discharged) in meter.items():
        fine[start].charged, fine[start].discharged = charged, discharged
    out: dict[int, Bucket] = defaultdict(Bucket)
    for start in sorted(fine):
        _add(out[start // width * width], fine[start], "meter" if start in meter else "target_power")
    return out


def _hold(bucket: Bucket, length: int, soe: float | None, power: float | None, source: int | None) -> None:
    if soe is not None:
        bucket.held += Fraction(soe) * length
        bucket.held_us += length
    if power is not None:
        energy = Fraction(power) * length / HOUR
        bucket.charged += max(-energy, Fraction(0))
        bucket.discharged += max(energy, Fraction(0))
    if source is not None and length > 0:
        bucket.commands[str(source)] += Fraction(length, US)


def _add(total: Bucket, part: Bucket, origin: str) -> None:
    for name in ("samples", "soe", "blocks", "held", "held_us", "charged", "discharged"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for source, seconds in part.commands.items():
        total.commands[source] += seconds
    total.origins.add(origin)


def check(conn: Connection[Any], bess: UUID, meter: UUID | None, hold: int) -> None:
    """All levels of a battery against the reference, from the readings as stored and its meter's rows."""
    at = MICROSECONDS.format
    rows = conn.execute(
        f"SELECT {at('time')}, soe, target_power, available_inverter_blocks, command_source "
        "FROM flux.mg_bess_readings WHERE device_id = %s ORDER BY time",
        [bess],
    ).fetchall()
    counted = conn.execute(
        f"SELECT {at('time_b')}, energy_imported_active_delta, energy_exported_active_delta "
        "FROM flux.mg_meter_readings_5m_intermediate WHERE device_id = %s",
        [meter],
    ).fetchall()
    known = {t: (Fraction(i), Fraction(e)) for t, i, e in counted if i is not None and e is not None}
    for width, table in TABLES.items():
        expected = reference(rows, hold, known, width)
        stored = conn.execute(
            f"SELECT {at('time_b')}, samples, soe_avg, soe_min, soe_max, soe_last, available_inverter_blocks_min, "
            f"energy_charged, energy_discharged, energy_from, command_seconds FROM flux.{table} "
            "WHERE device_id = %s ORDER BY 1",
            [bess],
        ).fetchall()
        assert [row[0] for row in stored] == sorted(expected), table
        for row in stored:
            _check_bucket(expected[row[0]], *row[1:])


def _check_bucket(want: Bucket, samples: int, mean: float | None, *rest: Any) -> None:
    lowest, highest, last, blocks, charged, discharged, origin, commands = rest
    assert samples == want.samples
    assert (lowest, highest, last) == ((min(want.soe), max(want.soe), want.soe[-1]) if want.soe else (None,) * 3)
    assert blocks == (min(want.blocks) if want.blocks else None)
    assert charged == pytest.approx(float(want.charged), rel=1e-9, abs=1e-9)
    assert discharged == pytest.approx(float(want.discharged), rel=1e-9, abs=1e-9)
    assert origin == (want.origins.pop() if len(want.origins) == 1 else "mixed")
    assert commands == pytest.approx({source: float(s) for source, s in want.commands.items()})
    if want.held_us:
        assert mean == pytest.approx(float(want.held / want.held_us), rel=1e-6)
    else:
        assert (mean is None) == (not want.soe)


STEPS = st.sampled_from([MINUTE] * 6 + [20 * US, 7 * MINUTE, 10 * MINUTE, 10 * MINUTE + 1, 40 * MINUTE, 3 * HOUR])
ROWS = st.tuples(
    STEPS,
    st.sampled_from([None, 0.0, 50.1, 99.9]),
    st.sampled_from([None, 0.0, -60.0, 120.5]),
    st.sampled_from([None, 3, 4]),
    st.sampled_from([None, 0, 1, 3]),
)
ACTIONS = st.lists(st.sampled_from(["bess", "bess", "meter", "refresh", "delete"]), max_size=10)


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in ("flux.mg_bess_readings", "flux.mg_meter_readings"):
            connection.execute("SELECT flux.ensure_partitions(%s, '2026-01-01', '2026-02-01')", [table])
        yield connection


def _device(conn: Connection[Any], type: str, site: str, metadata: dict[str, Any]) -> UUID:
    rows = conn.execute(
        "INSERT INTO flux.mg_device_registry (name, type, site, metadata) "
        "VALUES (gen_random_uuid()::text, %s, %s, %s) RETURNING id",
        [type, site, Jsonb(metadata)],
    ).fetchall()
    return UUID(str(rows[0][0]))


def _refresh(conn: Connection[Any]) -> None:
    while conn.execute("SELECT devices FROM flux.refresh_rollups_batch()").fetchone() != (0,):
        pass


def _tell(conn: Connection[Any], rows: list[Row], actions: list[str], metered: bool, hold: int) -> None:
    site = f"S{conn.execute('SELECT count(*) FROM flux.sites').fetchall()[0][0]}"
    bess = _device(conn, "bess", site, {} if hold == 10 * MINUTE else {"hold_limit": "25m"})
    meter = _device(conn, "meter", site, {"meter_type": "storage"}) if metered else None
    waiting = list(rows)
    for action in [*actions, *["bess"] * len(rows), "meter", "refresh"]:
        if action == "bess" and waiting:
            time, *values = waiting.pop()
            conn.execute(
                "INSERT INTO flux.mg_bess_readings (device_id, time, soe, target_power, available_inverter_blocks, "
                "command_source) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [bess, START + timedelta(microseconds=time), *values],
            )
        elif action == "meter" and meter is not None:
            conn.execute(
                "INSERT INTO flux.mg_meter_readings (device_id, time, energy_imported_active, energy_exported_active) "
                "SELECT %s, %s + k * interval '7 minutes', 100 + k * 1.5, CASE WHEN k < 9 THEN k * 0.25 END "
                "FROM generate_series(0, 12) k ON CONFLICT DO NOTHING",
                [meter, START],
            )
        elif action == "delete":
            conn.execute(
                "SELECT flux.delete_readings(device_id, time, time + interval '1 microsecond') "
                "FROM flux.mg_bess_readings WHERE device_id = %s ORDER BY time DESC LIMIT 1",
                [bess],
            )
        elif action == "refresh":
            _refresh(conn)
            check(conn, bess, meter, hold)


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    steps=st.lists(ROWS, min_size=1, max_size=15),
    order=st.randoms(use_true_random=False),
    actions=ACTIONS,
    metered=st.booleans(),
    hold=st.sampled_from([10 * MINUTE, 25 * MINUTE]),
)
def test_batteries_equal_the_reference(
    conn: Connection[Any], steps: list[Row], order: Any, actions: list[str], metered: bool, hold: int
) -> None:
    time, rows = 0, list[Row]()
    for step, soe, power, blocks, source in steps:
        time += step
        rows.append((time, soe, power, blocks, source))
    order.shuffle(rows)
    _tell(conn, rows, actions, metered, hold)


async def energy(conn: Conn) -> list[tuple[Any, ...]]:
    return await fetch(
        conn, "SELECT energy_charged, energy_discharged, energy_from FROM flux.mg_bess_readings_1h ORDER BY time_b"
    )


async def _story(conn: Conn, **metadata: Any) -> None:
    """A battery told to discharge 60 kW for 10 minutes; a storage meter that counted 9 kWh out and 0.5 kWh in."""
    bess = await add_device(conn, "WLCE-BESS-01", "bess")
    meter = await add_device(conn, "WLCE-BESS-METER", metadata={"meter_type": "storage", **metadata})
    minute = timedelta(minutes=1)
    await ingest(conn, [bess_reading(bess, NOON + k * minute, target_power=60.0) for k in range(11)])
    readings = [
        meter_reading(meter, NOON + k * minute, energy_imported_active=7 + k / 20, energy_exported_active=k * 0.9)
        for k in range(11)
    ]
    await ingest(conn, readings)
    await refresh(conn)


async def test_the_batterys_own_meter_is_believed_before_its_target(db: Conn) -> None:
    await _story(db)
    assert await energy(db) == [(pytest.approx(0.5), pytest.approx(9.0), "meter")]
    await delete_all_readings(db, "meter")
    await refresh(db)
    assert await energy(db) == [(0.0, pytest.approx(10.0), "target_power")]


async def test_with_two_batteries_the_meter_must_say_whose_it_is(db: Conn) -> None:
    await _story(db)
    await add_device(db, "WLCE-BESS-02", "bess")
    await refresh(db)
    assert await energy(db) == [(0.0, pytest.approx(10.0), "target_power")]
    await db.execute(
        """UPDATE flux.mg_device_registry SET metadata = metadata || '{"storage_of": "WLCE-BESS-01"}'
           WHERE name = 'WLCE-BESS-METER'"""
    )
    await refresh(db)
    assert await energy(db) == [(pytest.approx(0.5), pytest.approx(9.0), "meter")]


async def test_a_meter_of_another_battery_is_not_taken(db: Conn) -> None:
    await _story(db, storage_of="SOME-OTHER")
    assert await energy(db) == [(0.0, pytest.approx(10.0), "target_power")]
