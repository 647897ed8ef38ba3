"""Where a client is in the log of changes. Pure.

A position is a *snapshot* of PostgreSQL: which transactions had ended. What came since is what is visible now and was
not visible then, so no transaction can be passed over, however long it was open and in whatever order they committed.
Between two snapshots changes are told in the order of the log; a client that goes away in the middle says how far it
had come::

    3f2a9c1d/812:815:812              everything visible in that snapshot
    3f2a9c1d/812:815:812/820:820:/4711.3
                                      … and of what came from there to the second one, all up to row 3 of entry 4711

To clients it is a text that they give back.
"""

import re
from dataclasses import dataclass

from flux.errors import InputError, NotFoundError

_LONGEST = 30_000
_SNAPSHOT = r"(?:\d{1,19}):(?:\d{1,19}):(?:\d{1,19}(?:,\d{1,19})*)?"
_CURSOR = re.compile(rf"([0-9a-f]{{8}})/({_SNAPSHOT})(?:/({_SNAPSHOT})/(\d{{1,18}})\.(\d{{1,9}}))?", re.ASCII)
_BIGGEST = 2**63


class CursorTooOldError(NotFoundError):
    """The log no longer holds all that came since; read by REST, and go on from now."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """All that ``since`` sees; with ``until`` also what lies between them, up to ``row`` of entry ``entry``."""

    epoch: str
    since: str
    until: str | None = None
    entry: int = 0
    row: int = 0

    def __str__(self) -> str:
        if self.until is None:
            return f"{self.epoch}/{self.since}"
        return f"{self.epoch}/{self.since}/{self.until}/{self.entry}.{self.row}"

    def within(self, until: str, entry: int, row: int) -> "Cursor":
        """The position after one row on the way from here to ``until``."""
        return Cursor(self.epoch, self.since, until, entry, row)


def parse_cursor(text: str) -> Cursor:
    """A cursor that a client gave back; InputError where it is none."""
    found = _CURSOR.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise InputError("the cursor is none that this server gave out")
    epoch, since, until, entry, row = found.groups()
    for snapshot in (since, until):
        if snapshot is not None and not _possible(snapshot):
            raise InputError("the cursor is none that this server gave out")
    return Cursor(epoch, since, until, int(entry or 0), int(row or 0))


def _possible(snapshot: str) -> bool:
    """As PostgreSQL has it: xmin ≤ each transaction in progress < xmax, in order."""
    low, high, running = snapshot.split(":")
    lowest, highest = int(low), int(high)
    inside = [int(one) for one in running.split(",")] if running else []
    return (
        0 < lowest <= highest < _BIGGEST
        and inside == sorted(set(inside))
        and all(lowest <= one < highest for one in inside)
    )


def highest_of(snapshot: str) -> int:
    """The first transaction that had not begun."""
    return int(snapshot.split(":")[1])


def includes(newer: str, older: str) -> bool:
    """Whether everything that is visible in snapshot ``older`` is visible in ``newer``."""
    _, high, running = older.split(":")
    was_running = set(map(int, running.split(","))) if running else set()
    _, newer_high, newer_running = newer.split(":")
    still = [int(one) for one in newer_running.split(",")] if newer_running else []
    begun_since = int(high) - int(newer_high)
    if begun_since > len(was_running):
        return False
    unseen = [*still, *(int(newer_high) + number for number in range(begun_since))]
    return all(one >= int(high) or one in was_running for one in unseen)
