"""How much a simulated site draws and how much the sun gives: functions of time, the same on every run.

A profile is constant over stretches, and says where each ends: ``at(t)`` → ``(power_kw, until)``. The world never
steps over such an edge, so that the energy of a file comes out exactly. Times are whole microseconds since 1970 (UTC).
Powers are 0 kW or more; which way they flow at a meter is the physics' affair.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from flux.errors import InputError
from flux.model.settlement import GB_TIMEZONE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_US_PER_S = 1_000_000
_US_PER_HOUR = 3600 * _US_PER_S


def to_us(instant: datetime) -> int:
    """An aware datetime as whole microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def from_us(instant_us: int) -> datetime:
    """Whole microseconds since 1970 as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=instant_us)


class Profile(Protocol):
    """A power over time."""

    def at(self, instant_us: int) -> tuple[float, int]:
        """The power (kW) at an instant and the end (µs, exclusive) of the stretch in which it stays the same."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same power at all times."""

    power_kw: float

    def at(self, instant_us: int) -> tuple[float, int]:
        return self.power_kw, instant_us + 24 * _US_PER_HOUR


# By hour of the local day, relative to the mean of the day: homes on a working day, and on a day off.
_WEEKDAY = (
    *(0.62, 0.55, 0.52, 0.50, 0.52, 0.62, 0.88, 1.12, 1.08, 0.92, 0.86, 0.86),
    *(0.90, 0.86, 0.84, 0.96, 1.30, 1.68, 1.80, 1.66, 1.45, 1.25, 1.00, 0.78),
)
_WEEKEND = (
    *(0.68, 0.60, 0.55, 0.52, 0.52, 0.56, 0.68, 0.86, 1.06, 1.18, 1.18, 1.18),
    *(1.22, 1.14, 1.06, 1.10, 1.30, 1.56, 1.64, 1.52, 1.36, 1.20, 1.00, 0.80),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticLoad:
    """A load with the shape of homes: by hour, working day or weekend, season, and with appliances that come and go.

    ``mean_kw`` is about the mean over a year; ``noise`` 0 gives the bare shape.
    """

    mean_kw: float
    seed: int = 0
    noise: float = 1.0
    resolution_s: int = 20
    timezone: tzinfo = GB_TIMEZONE

    def at(self, instant_us: int) -> tuple[float, int]:
        start_s, until_us = _stretch(instant_us, self.resolution_s)
        local = from_us(start_s * _US_PER_S).astimezone(self.timezone)
        hours = local.hour + local.minute / 60 + local.second / 3600
        shape = _WEEKEND if local.weekday() >= 5 else _WEEKDAY
        season = 1 + 0.22 * math.cos(2 * math.pi * (local.timetuple().tm_yday - 15) / 365.25)
        slow = _smooth(self.seed, start_s, 1500) - 0.5
        fast = _smooth(self.seed + 1, start_s, 140) - 0.5
        flicker = _uniform(self.seed + 2, start_s // self.resolution_s) - 0.5
        variation = 1 + self.noise * (0.24 * slow + 0.16 * fast + 0.05 * flicker)
        return max(self.mean_kw * _hourly(shape, hours) * season * variation, 0.0), until_us


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSolar:
    """Solar panels: the height of the sun over a place and a day of the year, behind clouds that drift by.

    ``peak_kw`` is the nameplate (kWp). ``clearest`` and ``dullest`` are the shares of a clear sky's power that the
    best and the worst day give.
    """

    peak_kw: float
    seed: int = 0
    latitude_deg: float = 51.5
    longitude_deg: float = -0.1
    clearest: float = 1.0
    dullest: float = 0.45
    resolution_s: int = 20

    def at(self, instant_us: int) -> tuple[float, int]:
        start_s, until_us = _stretch(instant_us, self.resolution_s)
        height = self._sine_of_elevation(start_s)
        if height <= 0:
            return 0.0, until_us
        sky = self.dullest + (self.clearest - self.dullest) * _smooth(self.seed + 10, start_s, 86_400)
        broken = 4 * (sky - self.dullest) * (self.clearest - sky) / (self.clearest - self.dullest + 1e-9)
        drift = _smooth(self.seed + 11, start_s, 420) - 0.5
        flicker = _smooth(self.seed + 12, start_s, 60) - 0.5
        share = sky + broken * (0.9 * drift + 0.25 * flicker)
        return self.peak_kw * 0.92 * height**1.12 * min(max(share, 0.12), 1.0), until_us

    def _sine_of_elevation(self, instant_s: int) -> float:
        days = instant_s / 86_400
        year = 2 * math.pi * (days % 365.2425) / 365.2425
        declination = math.radians(-23.44) * math.cos(year + 2 * math.pi * 10 / 365.2425)
        hour_angle = 2 * math.pi * (days % 1 - 0.5) + math.radians(self.longitude_deg)
        latitude = math.radians(self.latitude_deg)
        return math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(
            hour_angle
        )


class CsvProfile:
    """Energies of a file, each spread evenly over its half hour.

    A day that the file doesn't have (another year) is found by month, day and local clock time; one that has no such
    row either, by going through the file's days in turn. So a January profile serves the whole year.
    """

    def __init__(self, energies_kwh: dict[datetime, float], step: timedelta, scale: float, zone: tzinfo) -> None:
        self._step_us = step // _MICROSECOND
        self._zone = zone
        hours = self._step_us / _US_PER_HOUR
        self._powers = {to_us(start): energy * scale / hours for start, energy in energies_kwh.items()}
        self._by_clock: dict[tuple[int, int, int, int], float] = {}
        for start_us, power in self._powers.items():
            self._by_clock.setdefault(self._clock(start_us), power)
        self._first_us = min(self._powers)
        days = (max(self._powers) - self._first_us) // (24 * _US_PER_HOUR) + 1
        self._span_us = days * 24 * _US_PER_HOUR

    def at(self, instant_us: int) -> tuple[float, int]:
        start_us = instant_us - instant_us % self._step_us
        power = self._powers.get(start_us)
        if power is None:
            power = self._by_clock.get(self._clock(start_us))
        if power is None:
            power = self._powers.get(self._first_us + (start_us - self._first_us) % self._span_us, 0.0)
        return power, start_us + self._step_us

    def _clock(self, instant_us: int) -> tuple[int, int, int, int]:
        local = from_us(instant_us).astimezone(self._zone)
        return (local.month, local.day, local.hour, local.minute)


def load_csv_profile(path: Path, scale: float = 1.0, zone: tzinfo = GB_TIMEZONE) -> CsvProfile:
    """Read a file of energies: first a column of UTC times (each the start of its row), and a column ``energy`` (kWh).

    An empty energy counts as the one before it (0 at the top). Raises :class:`InputError` naming file and line.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise InputError(f"{path}: the scale must be 0 or more, not {scale}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: {reason}") from None
    energies = dict(_csv_rows(text, str(path)))
    times = list(energies)
    if len(times) < 2:
        raise InputError(f"{path}: needs at least two rows, it has {len(times)}")
    step = times[1] - times[0]
    if step <= timedelta() or timedelta(hours=1) % step:
        raise InputError(f"{path}:3: rows must be a whole part of an hour apart, these are {step}")
    for number, (before, after) in enumerate(pairwise(times), start=3):
        if after - before != step:
            raise InputError(f"{path}:{number}: row {after.isoformat()} is not {step} after the one before it")
    return CsvProfile(energies, step, scale, zone)


def _csv_rows(text: str, source: str) -> Iterator[tuple[datetime, float]]:
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    if "energy" not in header or not header[0].lower().endswith("time"):
        raise InputError(f"{source}:1: needs a first column of times, like UTCTime, and a column energy (kWh)")
    column = header.index("energy")
    last = 0.0
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        try:
            time = datetime.fromisoformat(row[0])
            last = float(row[column]) if row[column].strip() else last
        except (ValueError, IndexError) as error:
            raise InputError(f"{source}:{number}: {error}") from None
        if not (math.isfinite(last) and last >= 0):
            raise InputError(f"{source}:{number}: energy {row[column]} is not a number of 0 or more")
        yield (time if time.tzinfo else time.replace(tzinfo=UTC)), last


class Recent:
    """A profile that remembers the stretch it was last asked about; asking again costs next to nothing."""

    __slots__ = ("_at", "_power_kw", "_start_us", "_until_us")

    def __init__(self, profile: Profile) -> None:
        self._at: Callable[[int], tuple[float, int]] = profile.at
        self._start_us = self._until_us = 0
        self._power_kw = 0.0

    def at(self, instant_us: int) -> tuple[float, int]:
        if not self._start_us <= instant_us < self._until_us:
            self._start_us = instant_us
            self._power_kw, self._until_us = self._at(instant_us)
        return self._power_kw, self._until_us


def _stretch(instant_us: int, resolution_s: int) -> tuple[int, int]:
    """The start (s) and end (µs) of the stretch that holds an instant."""
    start_s = instant_us // (resolution_s * _US_PER_S) * resolution_s
    return start_s, (start_s + resolution_s) * _US_PER_S


def _hourly(shape: tuple[float, ...], hours: float) -> float:
    """Between the hours of a day's shape in straight lines, midnight included."""
    hour = int(hours)
    share = hours - hour
    return shape[hour % 24] * (1 - share) + shape[(hour + 1) % 24] * share


def _smooth(seed: int, instant_s: int, period_s: int) -> float:
    """Noise in [0, 1) that wanders from one random value to the next within ``period_s``, without corners."""
    index, rest = divmod(instant_s, period_s)
    share = rest / period_s
    share = share * share * (3 - 2 * share)
    return _uniform(seed, index) * (1 - share) + _uniform(seed, index + 1) * share


def _uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on its arguments alone (the mixing of splitmix64)."""
    mixed = (index + seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFF_FFFF_FFFF_FFFF
    return (mixed ^ (mixed >> 31)) / 2**64
