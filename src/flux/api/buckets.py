"""Limits of requests: a bucket of tokens for each caller, filled steadily, that holds a burst.

``Rate(60, 100)``: 100 requests at once, and 60 a minute after that. Pure: the time comes in, in seconds of any clock
that does not go back. A caller that has not come for long has a full bucket, and so needs none: what is remembered
is bounded, and whoever came last the longest ago is forgotten first.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from flux.errors import InputError


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a minute, and how many may come at once."""

    per_minute: float
    burst: int

    @classmethod
    def parse(cls, text: str) -> "Rate | None":
        """``300/500``: 300 a minute, 500 at once; ``off``: no limit."""
        if text.strip().lower() == "off":
            return None
        per_minute, slash, burst = text.partition("/")
        try:
            rate = cls(float(per_minute), int(burst))
        except ValueError:
            rate = cls(0, 0)
        if not slash or not 0 < rate.per_minute < math.inf or rate.burst < 1:
            raise InputError(f"{text!r}: write a limit like 300/500 (requests a minute/at once), or off")
        return rate

    @property
    def per_second(self) -> float:
        return self.per_minute / 60


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller is told. ``remaining``: requests that would be answered now; times in whole seconds, rounded up."""

    allowed: bool
    limit: int
    remaining: int
    full_in_s: int
    """Until the bucket is full again."""
    retry_in_s: int
    """Until the next request would be answered; 0 where one would be now."""


class Buckets:
    """A bucket for each caller; at most ``most`` are remembered."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: Hashable, rate: Rate, now: float) -> Standing:
        """One request of ``caller``; a refused one takes nothing."""
        tokens, since = self._buckets.get(caller, (float(rate.burst), now))
        tokens = min(float(rate.burst), tokens + max(0.0, now - since) * rate.per_second)
        allowed = tokens >= 1
        if allowed:
            tokens -= 1
        self._buckets[caller] = (tokens, max(now, since))
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)  # who was seen last the longest ago, and is the likeliest to be full
        return Standing(
            allowed,
            rate.burst,
            int(tokens),
            math.ceil((rate.burst - tokens) / rate.per_second),
            0 if tokens >= 1 else math.ceil((1 - tokens) / rate.per_second),
        )
