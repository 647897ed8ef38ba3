"""What the market is doing now: the current half hour's own figures, else a guess from the one before.

At 17:04 the pair of 16:30 may be taken as a guess; from 17:10 on the pair of 17:00 counts.
"""

from datetime import timedelta
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict

from flux.control.cycle import Cycle
from flux.control.numbers import NotNegative
from flux.model import SETTLEMENT_PERIOD, Duration

USABLE_FROM = timedelta(minutes=10)
"""How long into a settlement period its own price and NIV say something about it."""


def _within_a_period(cutoff: timedelta) -> timedelta:
    if not timedelta() < cutoff <= SETTLEMENT_PERIOD:
        raise ValueError("must be more than 0 and at most 30m, the length of a settlement period")
    return cutoff


class GuessConfig(BaseModel):
    """Whether the previous half hour may stand in for the current one, in one direction, until ``cutoff`` into it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    guess: bool = False
    min_niv_mw: NotNegative = 0.0
    cutoff: Annotated[Duration, AfterValidator(_within_a_period)] = USABLE_FROM


NO_GUESS = GuessConfig()


class Outlook(NamedTuple):
    """Price (£/MWh) and NIV (MW, + short) to act on; ``guessed`` from the previous settlement period."""

    price: float
    niv_mw: float
    guessed: bool

    @property
    def short(self) -> bool:
        return self.niv_mw > 0

    @property
    def long(self) -> bool:
        return self.niv_mw < 0

    def in_words(self) -> str:
        """``system short by 180 MW (guess)``."""
        state = "balanced" if self.niv_mw == 0 else f"{'short' if self.short else 'long'} by {abs(self.niv_mw):.0f} MW"
        return f"system {state}{' (guess)' if self.guessed else ''}"


def outlook(cycle: Cycle, *, short: GuessConfig = NO_GUESS, long: GuessConfig = NO_GUESS) -> Outlook | None:
    """The outlook for a mode that guesses by ``short`` and ``long``; ``None``: nothing that may be used."""
    elapsed = cycle.sp_elapsed
    if elapsed >= USABLE_FROM:
        pair = cycle.market.pair_of(cycle.sp_start)
        if pair is not None:
            return Outlook(pair.price, pair.niv_mw, guessed=False)
    pair = cycle.market.pair_of(cycle.sp_start - SETTLEMENT_PERIOD)
    if pair is None or pair.niv_mw == 0:
        return None
    rule = short if pair.niv_mw > 0 else long
    if rule.guess and elapsed < rule.cutoff and abs(pair.niv_mw) >= rule.min_niv_mw:
        return Outlook(pair.price, pair.niv_mw, guessed=True)
    return None
