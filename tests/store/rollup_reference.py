"""V(t) from the words of the design, in plain Python and exact numbers, to hold the SQL engine against.

All times are in microseconds (whole numbers), all values are fractions: nothing here rounds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

US = 1_000_000
MINUTE = 60 * US
HOUR = 60 * MINUTE
BUCKET = 5 * MINUTE
Reading = tuple[int, Fraction]
Ruling = tuple[str, Fraction]


@dataclass(frozen=True)
class Limits:
    """What the device's metadata says."""

    gap: int = 24 * HOUR
    max_power_kw: Fraction | None = None
    width: Fraction | None = None
    ranges: Mapping[str, tuple[Fraction, Fraction]] = field(default_factory=dict)
    stuck_after: int | None = None

    def carried(self, elapsed: int) -> Fraction | None:
        """The largest plausible step, kWh; None: any."""
        if self.max_power_kw is None:
            return None
        return self.max_power_kw * Fraction(11, 10) * (elapsed + MINUTE) / HOUR

    def too_far(self, step: Fraction, elapsed: int) -> bool:
        most = self.carried(elapsed)
        return most is not None and step > most


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


def series(
    readings: Sequence[Reading], limits: Limits, rulings: Mapping[int, Ruling], believed: Collection[int]
) -> Series:
    """Walk along the readings of one counter (in time order, none missing): what is good, what each step counts.

    ``rulings``: by the reading's time, what a person said of it. ``believed``: times of values whose mark was lifted.
    """
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
            ruling = rulings.get(time)
            if limits.too_far(step, time - last_time):
                if ruling is not None or time not in believed:
                    kind, amount = ruling or ("", Fraction(0))
                    step = {"rise": step, "step": amount}.get(kind, Fraction(0))
                    falls.append(Fall(time, "jump"))
            elif value < last and ruling is not None and ruling[0] != "as_judged":
                kind, step = _ruled(ruling, value, last, limits)
                falls.append(Fall(time, kind))
            elif value < last:
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


def _ruled(ruling: Ruling, value: Fraction, last: Fraction, limits: Limits) -> tuple[str, Fraction]:
    """A fall that a person has judged."""
    match ruling[0]:
        case "restart":
            return "restart", value
        case "rollover":
            return "rollover", Fraction(0) if limits.width is None else max(limits.width - last, Fraction(0)) + value
        case "step":
            return "correction", ruling[1]
        case _:
            return "correction", Fraction(0)


def spikes(readings: Sequence[Reading], limits: Limits, believed: Collection[int]) -> set[int]:
    """Times of readings of one counter that lie far above a line that the counter left and is soon back on."""
    marked: set[int] = set()
    for i in range(1, len(readings)):
        (left_time, left), (time, value) = readings[i - 1], readings[i]
        before = readings[i - 2] if i > 1 and left_time - readings[i - 2][0] <= 2 * HOUR else None
        fallen = before is not None and before[1] > left
        if (
            fallen
            or time in believed
            or time - left_time > 2 * HOUR
            or not limits.too_far(value - left, time - left_time)
        ):
            continue
        for j in _window(readings, i):
            back_time, back = readings[j]
            if back >= left and not limits.too_far(back - left, back_time - left_time):
                marked |= {t for t, v in readings[i:j] if limits.too_far(v - left, t - left_time)}
                break
    return marked


def stuck(powers: Sequence[Reading], counters: Mapping[int, tuple[Fraction | None, ...]], limits: Limits) -> set[int]:
    """Times of powers that are bit-equal all around them, while the import and export counters moved otherwise."""
    marked: set[int] = set()
    after = limits.stuck_after
    if after is None:
        return marked
    runs: list[list[Reading]] = []
    for time, value in powers:
        if runs and runs[-1][-1][1] == value and time - runs[-1][-1][0] <= limits.gap:
            runs[-1].append((time, value))
        else:
            runs.append([(time, value)])
    for run in runs:
        for time, value in run:
            near = [t for t, _ in run if abs(t - time) <= after]
            if near[-1] - near[0] >= after and _disagree(
                value, near[-1] - near[0], counters[near[0]], counters[near[-1]]
            ):
                marked.add(time)
    return marked


def _disagree(
    power: Fraction, elapsed: int, first: tuple[Fraction | None, ...], last: tuple[Fraction | None, ...]
) -> bool:
    moved = [b - a if a is not None and b is not None else Fraction(0) for a, b in zip(first, last, strict=True)]
    if min(moved) < 0 or sum(moved) <= 0:
        return False
    counted, told = abs(moved[0] - moved[1]), abs(power) * elapsed / HOUR
    return abs(counted - told) > max(counted, told) / 20


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
