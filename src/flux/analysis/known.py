"""The market as it was known: each figure counts from the instant at which it came out, and never before.

Price and NIV of 17:00 that came out at 17:10 are in no state before 17:10; a price revised at 18:00 replaces the first
one from then on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flux.control.outlook import USABLE_FROM
from flux.control.state import MarketPair, MarketState
from flux.model import SETTLEMENT_PERIOD, period_start

DEFAULT_DELAY = USABLE_FROM
"""How long after a half hour's start its figures are taken to be known, where their source doesn't say."""

_NEVER = datetime.max.replace(tzinfo=UTC)
_NOTHING = MarketState()


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """Figures of the half hour that starts at ``sp_start``, as they came out at ``known_at``; None: not in it.

    Price in £/MWh; NIV in MW, + short.
    """

    known_at: datetime
    sp_start: datetime
    price: float | None = None
    niv_mw: float | None = None


class MarketAsKnown:
    """What was known at each instant of a run; asked with times that never go back."""

    def __init__(self, releases: Iterable[Release]) -> None:
        self._releases: Sequence[Release] = sorted(releases, key=lambda one: (one.known_at, one.sp_start))
        self._next = 0
        self._known: dict[datetime, tuple[float | None, float | None]] = {}
        self._state = _NOTHING
        self._until: datetime | None = None

    def at(self, now: datetime) -> MarketState:
        """The state of ``now`` (UTC): the last complete pairs of the half hour before and of this one."""
        if self._until is None or now >= self._until:
            self._move_to(now)
        return self._state

    def _move_to(self, now: datetime) -> None:
        releases, known = self._releases, self._known
        while self._next < len(releases) and (release := releases[self._next]).known_at <= now:
            price, niv_mw = known.get(release.sp_start, (None, None))
            known[release.sp_start] = (
                price if release.price is None else release.price,
                niv_mw if release.niv_mw is None else release.niv_mw,
            )
            self._next += 1
        current = period_start(now)
        pairs = [pair for start in (current - SETTLEMENT_PERIOD, current) if (pair := self._pair(start))]
        self._state = MarketState(tuple(pairs)) if pairs else _NOTHING
        coming = releases[self._next].known_at if self._next < len(releases) else _NEVER
        self._until = min(coming, current + SETTLEMENT_PERIOD)

    def _pair(self, start: datetime) -> MarketPair | None:
        price, niv_mw = self._known.get(start, (None, None))
        return None if price is None or niv_mw is None else MarketPair(start, price, niv_mw)


def newest_prices(releases: Iterable[Release]) -> dict[datetime, float]:
    """The last price that came out for each half hour, £/MWh: what is settled by."""
    prices: dict[datetime, float] = {}
    for release in sorted(releases, key=lambda one: one.known_at):
        if release.price is not None:
            prices[release.sp_start] = release.price
    return prices


def released_after(delay: timedelta, sp_start: datetime, price: float | None, niv_mw: float | None) -> Release:
    """A figure whose source doesn't say when it came out: ``delay`` after its half hour's start."""
    return Release(sp_start + delay, sp_start, price, niv_mw)
