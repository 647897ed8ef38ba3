"""Profiles: the same on every run, shaped like the real thing, and files that come out to the last watt-hour."""

import csv
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.devices.simulator.clock import SimClock
from flux.devices.simulator.profiles import (
    Constant,
    Profile,
    Recent,
    SyntheticLoad,
    SyntheticSolar,
    from_us,
    load_csv_profile,
    to_us,
)
from flux.errors import InputError

DATA = Path(__file__).parents[4] / "shared" / "data" / "gb_2024_01"
DAY = timedelta(days=1)


def at(*args: int) -> int:
    return to_us(datetime(*args, tzinfo=UTC))  # type: ignore[arg-type, misc]


def energy_kwh(profile: Profile, start_us: int, end_us: int) -> float:
    total, now = 0.0, start_us
    while now < end_us:
        power, until = profile.at(now)
        assert until > now
        total += power * (min(until, end_us) - now) / 3.6e9
        now = until
    return total


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(0, 4_000_000_000_000_000))
def test_microseconds_survive(instant: int) -> None:
    assert to_us(from_us(instant)) == instant


@pytest.mark.parametrize("file", ["load_12_homes.csv", "solar_4_4_kwp.csv"])
@pytest.mark.parametrize("year", [2023, 2024])
def test_a_month_of_the_real_files_sums_to_their_energy(file: str, year: int) -> None:
    if not DATA.exists():
        pytest.skip("the shared data is missing")
    with (DATA / file).open() as rows:
        total = sum(float(row["energy"] or 0) for row in csv.DictReader(rows))
    assert total > 100
    profile = load_csv_profile(DATA / file, scale=4.5)
    assert energy_kwh(profile, at(year, 1, 1), at(year, 2, 1)) / 4.5 == pytest.approx(total, abs=1e-6)


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["UTCTime,ClockTime,energy", *rows]) + "\n")
    return path


def test_power_is_constant_through_a_row_and_scaled(tmp_path: Path) -> None:
    file = write(tmp_path / "load.csv", "2023-01-01 00:00:00+00:00,,3", "2023-01-01 00:30:00+00:00,,4")
    profile = load_csv_profile(file, scale=2)
    assert profile.at(at(2023, 1, 1, 0, 29, 59)) == (12.0, at(2023, 1, 1, 0, 30))
    assert profile.at(at(2023, 1, 1, 0, 30)) == (16.0, at(2023, 1, 1, 1))


def test_another_year_is_matched_by_local_clock_time(tmp_path: Path) -> None:
    # 27 March was in summer time in 2023, and not yet in 2024: 02:30 on the clock is 01:30 UTC, then 02:30 UTC
    rows = [f"2023-03-27 {h:02}:{m:02}:00+00:00,,{h * 2 + m / 30}" for h in range(24) for m in (0, 30)]
    profile = load_csv_profile(write(tmp_path / "load.csv", *rows))
    assert profile.at(at(2023, 3, 27, 1, 30))[0] == 6.0
    assert profile.at(at(2024, 3, 27, 2, 30))[0] == 6.0


def test_a_day_that_the_file_does_not_have_takes_its_days_in_turn(tmp_path: Path) -> None:
    rows = [f"2023-01-{d:02} {h:02}:00:00+00:00,,{d * 100 + h}" for d in (1, 2, 3) for h in range(24)]
    profile = load_csv_profile(write(tmp_path / "load.csv", *rows))
    assert profile.at(at(2023, 1, 4, 5))[0] == 105
    assert profile.at(at(2023, 1, 6, 23))[0] == 323
    assert profile.at(at(2022, 12, 31, 7))[0] == 307


def test_an_empty_energy_is_the_one_before(tmp_path: Path) -> None:
    file = write(tmp_path / "s.csv", "2023-01-01 00:00:00+00:00,,2", "2023-01-01 00:30:00+00:00,,")
    assert load_csv_profile(file).at(at(2023, 1, 1, 0, 45))[0] == 4.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["2023-01-01 00:00:00+00:00,,1"], "needs at least two rows"),
        (["2023-01-01 00:00:00+00:00,,1", "2023-01-01 00:30:00+00:00,,x"], r"f\.csv:3: could not convert"),
        (["2023-01-01 00:00:00+00:00,,1", "2023-01-01 00:30:00+00:00,,-1"], r"f\.csv:3: energy -1"),
        (["2023-01-01 00:00:00+00:00,,1", "2023-01-01 00:30:00+00:00,,nan"], r"f\.csv:3: energy nan"),
        (["noon,,1"], r"f\.csv:2: "),
        (["2023-01-01 00:00:00+00:00,,1", "2023-01-01 00:50:00+00:00,,1"], "whole part of an hour"),
        ([f"2023-01-01 0{h}:00:00+00:00,,1" for h in (0, 1, 3)], r"f\.csv:4: row .* is not 1:00:00 after"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_csv_profile(write(tmp_path / "f.csv", *rows))


def test_a_missing_file_and_a_wrong_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: No such file"):
        load_csv_profile(tmp_path / "nowhere.csv")
    (tmp_path / "h.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"h\.csv:1: needs a first column of times"):
        load_csv_profile(tmp_path / "h.csv")


SYNTHETIC: list[Profile] = [SyntheticLoad(mean_kw=30, seed=3), SyntheticSolar(peak_kw=500, seed=3)]


@pytest.mark.parametrize("profile", SYNTHETIC, ids=["load", "solar"])
def test_a_synthetic_profile_depends_on_time_and_seed_alone(profile: Profile) -> None:
    times = [at(2026, 5, 1) + n * 97_000_000 for n in range(500)]
    again = SyntheticLoad(mean_kw=30, seed=3) if isinstance(profile, SyntheticLoad) else SYNTHETIC[1]
    other = SyntheticLoad(mean_kw=30, seed=4) if isinstance(profile, SyntheticLoad) else SyntheticSolar(peak_kw=500)
    values = [profile.at(t) for t in times]
    assert values == [again.at(t) for t in times]
    assert values != [other.at(t) for t in times]
    assert all(power >= 0 and until > t for (power, until), t in zip(values, times, strict=True))


def test_the_load_has_an_evening_peak_and_a_winter() -> None:
    load = SyntheticLoad(mean_kw=30)
    day = at(2026, 1, 14)
    hours = [energy_kwh(load, day + h * 3_600_000_000, day + (h + 1) * 3_600_000_000) for h in range(24)]
    assert hours.index(max(hours)) in range(16, 21)
    assert max(hours) > 2 * min(hours)
    assert energy_kwh(load, at(2026, 1, 5), at(2026, 1, 12)) > 1.2 * energy_kwh(load, at(2026, 7, 6), at(2026, 7, 13))


def test_weekends_differ_from_working_days() -> None:
    load = SyntheticLoad(mean_kw=30, noise=0)
    assert load.at(at(2026, 1, 14, 11))[0] < load.at(at(2026, 1, 17, 11))[0]


def test_the_sun_is_down_at_night_and_higher_in_summer() -> None:
    sun = SyntheticSolar(peak_kw=500)
    assert energy_kwh(sun, at(2026, 6, 21, 22), at(2026, 6, 22, 2)) == 0
    assert energy_kwh(sun, at(2026, 12, 21), at(2026, 12, 28)) > 0
    assert energy_kwh(sun, at(2026, 6, 21), at(2026, 6, 28)) > 3 * energy_kwh(sun, at(2026, 12, 21), at(2026, 12, 28))
    year = [sun.at(at(2026, 1, 1) + n * 1_801_000_000)[0] for n in range(17_000)]
    assert max(year) <= 500


@pytest.mark.parametrize("profile", SYNTHETIC, ids=["load", "solar"])
def test_stretches_meet_without_a_hole(profile: Profile) -> None:
    now, edges = at(2026, 6, 1, 12), []
    for _ in range(20):
        edges.append(now)
        now = profile.at(now)[1]
    assert {b - a for a, b in pairwise(edges)} == {20_000_000}


def test_recent_answers_as_the_profile_does() -> None:
    bare = SyntheticLoad(mean_kw=30)
    recent = Recent(bare)
    for t in (at(2026, 1, 1) + n * 7_300_000 for n in (*range(30), *range(30))):
        assert recent.at(t) == bare.at(t)
    assert Recent(Constant(5)).at(at(2026, 1, 1))[0] == 5


def test_the_clock_runs_at_its_speed() -> None:
    wall = [100.0]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = SimClock(start, speed=60, monotonic=lambda: wall[0])
    assert clock() == start
    wall[0] += 2.5
    assert clock() == start + timedelta(seconds=150)
    clock.advance(DAY)
    assert clock() == start + DAY + timedelta(seconds=150)


def test_a_clock_without_zone_or_running_backwards_is_refused() -> None:
    with pytest.raises(InputError, match="no time zone"):
        SimClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused
    with pytest.raises(InputError, match="speed -1"):
        SimClock(datetime(2026, 1, 1, tzinfo=UTC), speed=-1)
    with pytest.raises(InputError, match="backwards"):
        SimClock(datetime(2026, 1, 1, tzinfo=UTC)).advance(timedelta(seconds=-1))
