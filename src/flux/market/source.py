"""What every source of market data promises, and how a period is turned into a time."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Protocol

from flux.errors import UnavailableError
from flux.model import MarketValue, SettlementPeriod

Clock = Callable[[], datetime]
"""Gives the time, aware UTC."""


class UnexpectedReplyError(UnavailableError):
    """A platform answered with something that cannot be understood: a field is gone, a number is impossible."""


class MarketSource(Protocol):
    """One source of market values."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in ``metadata``."""

    async def fetch(self, start: datetime, end: datetime) -> list[MarketValue]:
        """Values about start ≤ time < end, in the units of their types; what the platform does not have is left out.

        Raises UnavailableError when it does not answer, UnexpectedReplyError when the answer makes no sense,
        RefusedError when it does not accept our credentials.
        """


def period_of(name: str, day: date, number: int) -> SettlementPeriod:
    """The settlement period that a reply speaks of; one that the day does not have is an error of the reply."""
    try:
        return SettlementPeriod(day, number)
    except ValueError as error:
        raise UnexpectedReplyError(f"{name}: {error}") from None
