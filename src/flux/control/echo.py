"""Whether the site's power answers to the load, or is the echo of the battery's own last move. Pure.

What the site would draw with the battery at rest does not depend on the battery, unless a meter lags: a move of +40 kW
that the grid meter does not show yet makes the site look as if it drew 40 kW more. By how much, for each delay of 1 to
5 cycles, is a coefficient: 1 where the meter lags by so many cycles, about 0 where the load alone moves. A battery's
own meter that lags gives −1.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_DELAYS = range(1, 6)
_FADE = 0.99  # of what was heard, with each cycle
_LEAST_KW2 = 2.0  # the moves that a judgement needs, kW²
_LATE = 1.5  # of the time between two cycles: then some are missing in between


@dataclass(frozen=True, slots=True)
class Echo:
    """What was heard so far. ``battery_kw``: its power in the last cycles, newest first; ``rest_kw`` the load."""

    at: datetime | None = None
    rest_kw: float = 0.0
    battery_kw: tuple[float, ...] = ()
    sums: tuple[tuple[float, float], ...] = tuple((0.0, 0.0) for _ in _DELAYS)

    @property
    def heard(self) -> tuple[int, float] | None:
        """The delay in cycles that explains most, and its coefficient; None: the battery has hardly moved."""
        known = [
            (both * both / moves, delay, both / moves)
            for delay, (both, moves) in zip(_DELAYS, self.sums, strict=True)
            if moves >= _LEAST_KW2
        ]
        return max(known)[1:] if known else None


def listen(before: Echo, at: datetime, step: timedelta, rest_kw: float, battery_kw: float) -> Echo:
    """After a cycle ``at`` that saw the site's ``rest_kw`` and ``battery_kw``; ``step``: between two cycles."""
    if before.at is None or not timedelta() < at - before.at <= _LATE * step:
        return replace(before, at=at, rest_kw=rest_kw, battery_kw=(battery_kw,))
    powers = (battery_kw, *before.battery_kw)[: len(_DELAYS) + 2]
    moved_kw = rest_kw - before.rest_kw
    sums = tuple(
        _with(pair, moved_kw, _own_move(powers, delay)) for delay, pair in zip(_DELAYS, before.sums, strict=True)
    )
    return Echo(at, rest_kw, powers, sums)


def _own_move(powers_kw: tuple[float, ...], delay: int) -> float | None:
    """How much a meter that is ``delay`` cycles behind would make the load seem to move; None: not known yet."""
    if len(powers_kw) < delay + 2:
        return None
    return (powers_kw[0] - powers_kw[1]) - (powers_kw[delay] - powers_kw[delay + 1])


def _with(pair: tuple[float, float], moved_kw: float, own_kw: float | None) -> tuple[float, float]:
    both, moves = pair
    if own_kw is None:
        return pair
    return _FADE * both + moved_kw * own_kw, _FADE * moves + own_kw * own_kw
