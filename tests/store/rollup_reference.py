"""V(t) from the words of the design, in plain Python and exact numbers, to hold the SQL engine against.

All times are in microseconds (whole numbers), all values are fractions: nothing here rounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

US = 1_000_000
MINUTE = 60 * US
HOUR = 60 * MINUTE
BUCKET = 5 * MINUTE
Reading = tuple[int, Fraction]


@dataclass(frozen=True)
class Limits:
    """What the device's metadata says."""

    gap: int = 24 * HOUR
    max_power_kw: Fraction | None = None
    width: Fraction | None = None


@dataclass(frozen=True)
class Line:
    """V between two good readings that follow each other: it rises by ``step``."""

    start: int
    end: int
    step: Fraction


@dataclass(frozen=True)
class Fall:
    time: int
    kind: str


@dataclass(frozen=True)
class Series:
    good: list[Reading]
    lines: list[Line]
    falls: list[Fall]


def series(readings: Sequence[Reading], limits: Limits) -> Series:
    """Walk along the readings of one counter (in time order, none missing): what is good, what each step counts."""
    good: list[Reading] = []
    lines: list[Line] = []
    falls: list[Fall] = []
    i = 0
    while i < len(readings):
        time, value = readings[i]
        step = Fraction(0)
        if good:
            last_time, last = good[-1]
            step = value - last
            if value < last:
                window = list(_window(readings, i))
                back = next((j for j in window if readings[j][1] >= last), None)
                if back is not None:
                    falls.append(Fall(time, "glitch"))
                    i = back
                    continue
                if i + 1 + len(window) == len(readings):  # more may come: flat until it is decided
                    falls.append(Fall(time, "undecided"))
                    break
                kind, step = judge(value, last, time - last_time, limits)
                falls.append(Fall(time, kind))
            lines.append(Line(last_time, time, step))
        good.append((time, value))
        i += 1
    return Series(good, lines, falls)


def _window(readings: Sequence[Reading], fall: int) -> Iterator[int]:
    """The readings by which a counter must be back: 3 of them or 5 minutes, whichever is longer, at most 2 hours."""
    start = readings[fall][0]
    for j in range(fall + 1, len(readings)):
        after = readings[j][0] - start
        if after > 2 * HOUR or (j > fall + 3 and after > 5 * MINUTE):
            return
        yield j


def judge(value: Fraction, last: Fraction, elapsed: int, limits: Limits) -> tuple[str, Fraction]:
    """A fall that stays."""
    possible = None if limits.max_power_kw is None else limits.max_power_kw * elapsed / HOUR
    if limits.width is not None and last <= limits.width:
        through = limits.width - last + value
        if through <= limits.width / 10 and (possible is None or through <= possible):
            return "rollover", through
    if value <= last / 2 and (possible is None or value <= possible):
        return "restart", value
    return "correction", Fraction(0)


def deltas(counter: Series, limits: Limits, width: int = BUCKET) -> dict[int, Fraction]:
    """What each bucket counted, for the buckets in which the counter is known."""
    out: dict[int, Fraction] = {time // width * width: Fraction(0) for time, _ in counter.good}
    for line in counter.lines:
        if line.end - line.start > limits.gap:
            continue
        for bucket in range(line.start // width * width, line.end, width):
            inside = min(line.end, bucket + width) - max(line.start, bucket)
            out[bucket] = out.get(bucket, Fraction(0)) + line.step * inside / (line.end - line.start)
    return out


def gaps(counter: Series, limits: Limits) -> list[Line]:
    return [line for line in counter.lines if line.end - line.start > limits.gap]
