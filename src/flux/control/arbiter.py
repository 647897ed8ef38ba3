"""Who gets the battery: proposals in the plan's order, each inside what the higher ones left.

Charging at 50 kW or more, asked for by a higher mode, has maximum −50: a lower mode may ask for −80, not for −20.
"""

from dataclasses import dataclass, field

from flux.control.compiled import Entry
from flux.control.decision import ProposalRecord
from flux.control.shapes import Offer
from flux.control.state import FullDischarge

INFINITE = float("inf")


@dataclass(slots=True)
class Arbiter:
    """Collects the proposals of one cycle, kW; ``target`` is ``None`` while no mode has one, bounds start wide open."""

    target: float | None = None
    low: float = -INFINITE
    high: float = INFINITE
    winner: Entry | None = None
    winning_reason: str = ""
    records: list[ProposalRecord] = field(default_factory=list)
    begun: list[FullDischarge] = field(default_factory=list)

    def hear(self, entry: Entry, offer: Offer) -> bool:
        """Take an offer into account; False when its target lies outside the bounds and it is refused whole."""
        target = offer.target
        if target is not None and not self.low <= target <= self.high:
            refusal = f"; refused: outside {_bounds(self.low, self.high)} set by higher modes"
            self._record(entry, offer, offer.reason + refusal, refused=True)
            return False
        if target is not None and target != self.target:
            self.target, self.winner, self.winning_reason = target, entry, offer.reason
        self._narrow(offer)
        if offer.begins is not None:
            self.begun.append(offer.begins)
        self._record(entry, offer, offer.reason, refused=False)
        return True

    def outcome(self) -> float:
        """The power asked for, ±inf allowed; idle (0) brought inside the bounds where no mode had a target."""
        return min(max(0.0, self.low), self.high) if self.target is None else self.target

    def _narrow(self, offer: Offer) -> None:
        """Bounds move inwards only, and never past the target or each other."""
        minimum, maximum = offer.minimum, offer.maximum
        if minimum is not None and self.low < minimum <= self._ceiling():
            self.low = minimum
        if maximum is not None and self.high > maximum >= self._floor():
            self.high = maximum

    def _ceiling(self) -> float:
        return self.high if self.target is None else min(self.high, self.target)

    def _floor(self) -> float:
        return self.low if self.target is None else max(self.low, self.target)

    def _record(self, entry: Entry, offer: Offer, reason: str, *, refused: bool) -> None:
        target, minimum, maximum, _, _ = offer
        self.records.append(ProposalRecord(entry.number, entry.name, target, minimum, maximum, reason, refused))


def _bounds(low: float, high: float) -> str:
    return f"[{low + 0.0:.1f}, {high + 0.0:.1f}] kW"
