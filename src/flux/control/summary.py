"""What a run of kept decisions amounts to: energy by mode, time at limits; and which of them were a change of mind.

A *row* is one of the ledger, as the database has it. A decision stands until the next of its plan, and at most for two
minutes, since one is kept each minute while a controller runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Row = Mapping[str, Any]
LONGEST = timedelta(minutes=2)
_HOUR = timedelta(hours=1)


@dataclass(slots=True)
class PlanSummary:
    """One plan over a span. Energies in kWh and ≥ 0, of the targets: what a battery that follows would have done."""

    plan: str
    decisions: int = 0
    hours: float = 0.0
    absolute_kwh: float = 0.0
    charged_kwh: float = 0.0
    discharged_kwh: float = 0.0
    hours_at_limits: float = 0.0
    hours_stale: float = 0.0
    energy_by_mode: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    hours_by_mode: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def mean_power_kw(self) -> float:
        """Mean of |target|."""
        return self.absolute_kwh / self.hours if self.hours else 0.0

    def add(self, row: Row, lasts: timedelta) -> None:
        """Count a decision that stood for ``lasts``."""
        hours = lasts / _HOUR
        energy_kwh = (row["target_power_kw"] or 0.0) * hours
        mode = row["effective"] or ("stale" if row["stale"] else "idle")
        self.decisions += 1
        self.hours += hours
        self.absolute_kwh += abs(energy_kwh)
        self.charged_kwh += max(-energy_kwh, 0.0)
        self.discharged_kwh += max(energy_kwh, 0.0)
        self.hours_at_limits += hours if row["limits"] else 0.0
        self.hours_stale += hours if row["stale"] else 0.0
        self.energy_by_mode[mode] += abs(energy_kwh)
        self.hours_by_mode[mode] += hours


def summarise(rows: Iterable[Row], end: datetime) -> list[PlanSummary]:
    """A summary for each plan of ``rows`` (oldest first) up to ``end``; the live one first."""
    by_plan: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_plan[row["plan"]].append(row)
    return [_summary(plan, by_plan[plan], end) for plan in sorted(by_plan)]


def _summary(plan: str, rows: Sequence[Row], end: datetime) -> PlanSummary:
    summary = PlanSummary(plan)
    for number, row in enumerate(rows):
        until = rows[number + 1]["time"] if number + 1 < len(rows) else end
        summary.add(row, max(timedelta(), min(until - row["time"], LONGEST)))
    return summary


def changes(rows: Iterable[Row]) -> Iterator[Row]:
    """Those of ``rows`` (oldest first) that were a change: of mode, direction, limits, staleness, faults, plan."""
    before: dict[str, tuple[object, ...]] = {}
    for row in rows:
        now = _gist(row)
        if before.get(row["plan"]) != now:
            yield row
        before[row["plan"]] = now


def _gist(row: Row) -> tuple[object, ...]:
    power = row["target_power_kw"]
    direction = None if power is None else (power > 0) - (power < 0)
    # without a mode the reason tells a stop from a battery that idles
    why = None if row["effective"] or row["stale"] else row["reason"].partition(":")[0]
    mode = (row["effective"], why, direction, row["stale"], row["plan_hash"])
    return (*mode, *(tuple(row[name]) for name in ("active", "limits", "events", "faults")))
