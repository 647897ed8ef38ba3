"""A row of steps of equal length: the grid that prices, energies and rates are laid on."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(instant: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (instant - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class Timeline:
    """``count`` steps of length ``step`` from ``start`` (aware) on; step i is [start + i·step, start + (i+1)·step)."""

    start: datetime
    step: timedelta
    count: int

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError("a timeline starts at an instant: its start needs a time zone")
        if self.step < timedelta(seconds=1) or self.step > timedelta(days=1):
            raise ValueError(f"a step of {self.step} is not between a second and a day")
        if self.count < 0:
            raise ValueError(f"{self.count} steps")
        object.__setattr__(self, "start", self.start.astimezone(UTC))

    @classmethod
    def between(cls, start: datetime, end: datetime, step: timedelta) -> "Timeline":
        """The steps of [start, end); a ValueError where ``step`` doesn't divide it."""
        count, left = divmod(end - start, step)
        if left or count < 0:
            raise ValueError(f"{start} … {end} is no whole number of steps of {step}")
        return cls(start, step, count)

    @property
    def end(self) -> datetime:
        return self.start + self.count * self.step

    @property
    def step_h(self) -> float:
        return self.step / timedelta(hours=1)

    def starts_us(self) -> npt.NDArray[np.int64]:
        """The start of each step, microseconds since 1970."""
        return to_us(self.start) + np.arange(self.count, dtype=np.int64) * (self.step // _MICROSECOND)

    def starts(self) -> list[datetime]:
        """The start of each step, UTC."""
        return [self.start + number * self.step for number in range(self.count)]

    def share_inside(self, windows: list[tuple[datetime, datetime]]) -> npt.NDArray[np.float64]:
        """How much of each step lies in the windows [start, end), 0 to 1; overlapping windows count once."""
        step_us = self.step // _MICROSECOND
        covered = np.zeros(self.count)
        edge = to_us(self.start)
        for start, end in sorted(windows):
            low, high = max(to_us(start), edge), min(to_us(end), to_us(self.end))
            if high <= low:
                continue
            edge = high
            first, last = divmod(low - to_us(self.start), step_us), divmod(high - to_us(self.start), step_us)
            if first[0] == last[0]:
                covered[first[0]] += high - low
                continue
            covered[first[0]] += step_us - first[1]
            covered[first[0] + 1 : last[0]] += step_us
            if last[1]:
                covered[last[0]] += last[1]
        return covered / step_us
