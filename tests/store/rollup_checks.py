"""What the rollups of a device should be by the reference, against what the database holds."""

from collections import defaultdict
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from psycopg import Connection
from tests.store.rollup_reference import BUCKET, HOUR, MINUTE, Limits, Series, deltas, gaps, series, spikes, stuck

COUNTERS = ("energy_imported_active", "energy_exported_active", "energy_imported_phase_b_active")
"""The counters that the tests use; the engine's text is the same for every counter."""
POWER = "power_total_active"
POWER_FACTOR = "power_factor_total"
TABLES = {
    BUCKET: "mg_meter_readings_5m_intermediate",
    HOUR // 2: "mg_meter_readings_30m_intermediate",
    HOUR: "mg_meter_readings_1h",
}
MICROSECONDS = "(extract(epoch FROM {}) * 1000000)::bigint"


def check(conn: Connection[Any], device: UUID, limits: Limits) -> None:
    """Compare all levels, gaps and counter events of a device with the reference, from the readings as stored."""
    raw = conn.execute(
        f"SELECT {MICROSECONDS.format('time')}, {', '.join(COUNTERS)}, {POWER_FACTOR}, {POWER} "
        "FROM flux.mg_meter_readings WHERE device_id = %s ORDER BY time",
        [device],
    ).fetchall()
    raw, marks, lifted = without_marked(conn, device, limits, raw)
    _check_marks(conn, device, marks)
    rulings = _rulings(conn, device)
    by_counter = {
        name: series(
            [(row[0], Fraction(row[k])) for row in raw if row[k] is not None], limits, rulings[name], lifted[name]
        )
        for k, name in enumerate(COUNTERS, start=1)
    }
    for width, table in TABLES.items():
        _check_level(conn, device, limits, width, table, raw, by_counter)
        _check_power(conn, device, width, table, raw)
    _check_lists(conn, device, limits, by_counter)


def without_marked(
    conn: Connection[Any], device: UUID, limits: Limits, raw: list[tuple[Any, ...]]
) -> tuple[list[tuple[Any, ...]], set[tuple[int, str, str]], dict[str, set[int]]]:
    """The readings with None for each value that should be marked, those marks (time, metric, reason), what was lifted.

    What people marked and lifted is read from the database; what Flux should have marked is worked out here.
    """
    columns = ("time", *COUNTERS, POWER_FACTOR, POWER)
    people = conn.execute(
        f"SELECT {MICROSECONDS.format('time')}, metric, lifted_at IS NOT NULL, value FROM flux.reading_marks "
        "WHERE device_id = %s AND (reason = 'operator' OR lifted_at IS NOT NULL)",
        [device],
    ).fetchall()
    stored = {(row[0], name): value for row in raw for name, value in zip(columns, row, strict=True)}
    lifted: dict[str, set[int]] = defaultdict(set)
    for t, name, is_lifted, value in people:
        # (a mark keeps a `real` as the double that it is, which reads back with more digits)
        if is_lifted and stored.get((t, name)) == pytest.approx(value, rel=1e-6, abs=1e-12):
            lifted[name].add(t)
    marks = {(t, name, "operator") for t, name, is_lifted, _ in people if not is_lifted}
    taken = {(t, name) for t, name, _ in marks}
    for row in raw:
        for name, value in zip(columns, row, strict=True):
            low, high = limits.ranges.get(name, (None, None))
            judged_before = (row[0], name) in taken or row[0] in lifted[name]
            if low is not None and value is not None and not low <= value <= high and not judged_before:
                marks.add((row[0], name, "range"))
    judged = _blanked(raw, columns, marks)
    for k, name in enumerate(COUNTERS, start=1):
        values = [(row[0], Fraction(row[k])) for row in judged if row[k] is not None]
        marks |= {(t, name, "spike") for t in spikes(values, limits, lifted[name]) - lifted[name]}
    powers = [(row[0], Fraction(row[-1])) for row in judged if row[-1] is not None]
    both = {row[0]: tuple(None if v is None else Fraction(v) for v in row[1:3]) for row in judged}
    marks |= {(t, POWER, "stuck") for t in stuck(powers, both, limits) - lifted[POWER]}
    return _blanked(raw, columns, marks), marks, lifted


def _blanked(
    raw: list[tuple[Any, ...]], columns: tuple[str, ...], marks: set[tuple[int, str, str]]
) -> list[tuple[Any, ...]]:
    out = {(t, name) for t, name, _ in marks}
    return [tuple(None if (row[0], name) in out else v for name, v in zip(columns, row, strict=True)) for row in raw]


def _check_marks(conn: Connection[Any], device: UUID, marks: set[tuple[int, str, str]]) -> None:
    rows = conn.execute(
        f"SELECT {MICROSECONDS.format('time')}, metric, reason FROM flux.reading_marks "
        "WHERE device_id = %s AND lifted_at IS NULL",
        [device],
    ).fetchall()
    assert set(rows) == marks


def _rulings(conn: Connection[Any], device: UUID) -> dict[str, dict[int, tuple[str, Fraction]]]:
    rows = conn.execute(
        f"SELECT counter, {MICROSECONDS.format('time')}, kind, step FROM flux.counter_rulings WHERE device_id = %s",
        [device],
    ).fetchall()
    rulings: dict[str, dict[int, tuple[str, Fraction]]] = defaultdict(dict)
    for counter, time, kind, step in rows:
        rulings[counter][time] = (kind, Fraction(step or 0))
    return rulings


def _check_power(conn: Connection[Any], device: UUID, width: int, table: str, raw: list[tuple[Any, ...]]) -> None:
    """Peaks and the power factor weighed by energy."""
    powers = [(row[0], row[-1], row[-2]) for row in raw if row[-1] is not None]
    start, at_1m, at_5m = map(MICROSECONDS.format, ("time_b", f"{POWER}_max_1m_at", f"{POWER}_max_5m_at"))
    rows = conn.execute(
        f"SELECT {start}, {POWER}_max_1m, {at_1m}, {POWER}_max_5m, {at_5m}, "
        f"{POWER}_abs_sum, {POWER_FACTOR}_weighted FROM flux.{table} WHERE device_id = %s ORDER BY time_b",
        [device],
    ).fetchall()
    for time_b, peak_1m, at_1m, peak_5m, at_5m, magnitudes, power_factor in rows:
        here = [row for row in powers if row[0] // width * width == time_b]
        assert (peak_1m is None, peak_5m is None, magnitudes is None) == (not here,) * 3, (table, time_b)
        if here:
            _check_peak(here, MINUTE, peak_1m, at_1m)
            _check_peak(here, BUCKET, peak_5m, at_5m)
            assert magnitudes == pytest.approx(sum(abs(power) for _, power, _ in here))
        weight = sum(abs(power) for _, power, factor in here if factor is not None)
        assert (power_factor is None) == (weight == 0), (table, time_b)
        if weight:
            exact = sum(abs(power) * factor for _, power, factor in here if factor is not None) / weight
            assert power_factor == pytest.approx(exact, rel=1e-6)


def _check_peak(here: list[tuple[Any, ...]], width: int, peak: float, at: int) -> None:
    means: dict[int, list[Fraction]] = defaultdict(list)
    for time, power, _ in here:
        means[time // width * width].append(Fraction(power))
    exact = {start: sum(each, Fraction(0)) / len(each) for start, each in means.items()}
    highest = max(exact.values())
    assert peak == pytest.approx(float(highest), rel=1e-6)
    assert exact[at] == pytest.approx(highest, rel=1e-6), "and that is when it was"


def _check_level(
    conn: Connection[Any],
    device: UUID,
    limits: Limits,
    width: int,
    table: str,
    raw: list[tuple[Any, ...]],
    by_counter: dict[str, Series],
) -> None:
    readings = defaultdict(list)
    for row in raw:
        readings[row[0] // width * width].append(row)
    expected = {name: deltas(counter, limits, width) for name, counter in by_counter.items()}
    columns = ", ".join(f"{c}_delta, {c}_min" for c in COUNTERS)
    rows = conn.execute(
        f"SELECT {MICROSECONDS.format('time_b')}, samples, {POWER}_avg, {POWER}_min, {POWER}_max, {columns} "
        f"FROM flux.{table} WHERE device_id = %s ORDER BY time_b",
        [device],
    ).fetchall()
    assert [row[0] for row in rows] == sorted(set(readings).union(*expected.values())), table
    for time_b, samples, mean, lowest, highest, *counted in rows:
        here = readings[time_b]
        assert samples == len(here), (table, time_b)
        powers = [row[-1] for row in here if row[-1] is not None]
        assert (lowest, highest) == ((min(powers), max(powers)) if powers else (None, None))
        if powers:
            exact = sum(map(Fraction, powers), Fraction(0)) / len(powers)
            assert abs(mean - exact) <= abs(exact) * Fraction(1, 2**23), (table, time_b)  # as near as `real` can be
        for k, name in enumerate(COUNTERS):
            where = (table, time_b, name)
            _check_delta(counted[2 * k], expected[name].get(time_b), where)
            good = [value for time, value in by_counter[name].good if time // width * width == time_b]
            assert counted[2 * k + 1] == (min(good) if good else None), where


def _check_delta(actual: float | None, exact: Fraction | None, where: tuple[Any, ...]) -> None:
    if actual is None or exact is None:
        assert (actual is None) == (exact is None), (*where, actual, exact)
    else:
        assert abs(actual - exact) <= max(exact, Fraction(1)) / 10**9, (*where, actual, float(exact))


def _check_lists(conn: Connection[Any], device: UUID, limits: Limits, by_counter: dict[str, Series]) -> None:
    listed = conn.execute(
        f"SELECT counter, {MICROSECONDS.format('from_time')}, {MICROSECONDS.format('to_time')}, step "
        "FROM flux.rollup_gaps WHERE device_id = %s ORDER BY 1, 2",
        [device],
    ).fetchall()
    expected = sorted(
        (name, line.start, line.end, line.step) for name, c in by_counter.items() for line in gaps(c, limits)
    )
    assert [row[:3] for row in listed] == [line[:3] for line in expected]
    for row, line in zip(listed, expected, strict=True):
        _check_delta(row[3], line[3], row[:2])
    events = conn.execute(
        f"SELECT counter, {MICROSECONDS.format('time')}, kind "
        "FROM flux.counter_events WHERE device_id = %s ORDER BY 1, 2",
        [device],
    ).fetchall()
    assert events == sorted((name, fall.time, fall.kind) for name, c in by_counter.items() for fall in c.falls)
    for name, counter in by_counter.items():
        (row_sum,) = conn.execute(
            f"SELECT coalesce(sum({name}_delta), 0) FROM flux.mg_meter_readings_1h WHERE device_id = %s", [device]
        ).fetchone() or (None,)
        counted = sum((line.step for line in counter.lines), Fraction(0))
        in_gaps = sum(row[3] for row in listed if row[0] == name)
        _check_delta(row_sum + in_gaps, counted, (name, "rows and gaps"))
