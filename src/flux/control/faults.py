"""Faults as spans, from the decisions of the ledger: each begins with its ``since`` and ends with the first without it.

A *row* is a decision of the live plan, as the database has it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """One fault. ``until`` None: it still held at ``seen``, the last decision that names it; ``words`` are its last."""

    kind: str
    device: str
    since: datetime
    seen: datetime
    until: datetime | None
    words: str

    @property
    def lasted(self) -> timedelta | None:
        return None if self.until is None else self.until - self.since


def fault_spans(rows: Iterable[Row]) -> list[FaultSpan]:
    """The faults in ``rows`` (one plan's, oldest first), in the order in which they began."""
    open_: dict[tuple[str, str, str], FaultSpan] = {}
    ended: list[FaultSpan] = []
    for row in rows:
        time, details = row["time"], row["fault_details"]
        now = {(one["kind"], one["device"], one["since"]): one for one in details}
        ended += [replace(open_.pop(key), until=time) for key in list(open_) if key not in now]
        for key, one in now.items():
            since = datetime.fromisoformat(one["since"])
            open_[key] = FaultSpan(one["kind"], one["device"], since, time, None, one["words"])
    return sorted([*ended, *open_.values()], key=lambda span: (span.since, span.kind, span.device))
