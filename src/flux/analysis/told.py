"""What a site was told from outside: dispatch, operating envelopes and its grid connection, each as it was known then.

An envelope for 12:00 to 13:00 that came at 12:10 limits the site from 12:10 on; one that was withdrawn at 12:30 until
then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from flux.analysis.flows import Series
from flux.analysis.timeline import Timeline
from flux.control.feed import ControlFeed
from flux.control.limits import grid_range
from flux.control.parts import SiteConfig
from flux.control.state import Envelope, ScheduleStep, SiteLimits

ALWAYS = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ToldStep:
    """A step of dispatch, known from ``known_at`` on until it was withdrawn at ``gone_at``."""

    step: ScheduleStep
    known_at: datetime = ALWAYS
    gone_at: datetime = NEVER

    @property
    def span(self) -> tuple[datetime, datetime]:
        """[from, to) in which it is both known and in force; empty where to is not after from."""
        return max(self.step.start, self.known_at), min(self.step.end, self.gone_at)


@dataclass(frozen=True, slots=True)
class ToldEnvelope:
    """An operating envelope, known from ``known_at`` on until it was withdrawn at ``gone_at``."""

    envelope: Envelope
    known_at: datetime = ALWAYS
    gone_at: datetime = NEVER

    @property
    def span(self) -> tuple[datetime, datetime]:
        """[from, to) in which it is both known and in force; empty where to is not after from."""
        return max(self.envelope.start, self.known_at), min(self.envelope.end, self.gone_at)


@dataclass(frozen=True, slots=True)
class Told:
    """Everything that a site was told in a span, each in the order in which it counts.

    ``connection``: what the grid connection carries; neither a plan nor an envelope can widen it.
    """

    steps: tuple[ToldStep, ...] = ()
    envelopes: tuple[ToldEnvelope, ...] = ()
    connection: SiteLimits = field(default_factory=SiteLimits)

    @property
    def limits_site(self) -> bool:
        """Whether it can change the plan's grid limits."""
        return bool(self.envelopes) or self.connection != SiteLimits()

    def feed_at(self, now: datetime) -> ControlFeed:
        """What the controller has of it at ``now``."""
        return ControlFeed(
            schedule=tuple(one.step for one in self.steps if one.span[0] <= now < one.span[1]),
            envelopes=tuple(one.envelope for one in self.envelopes if one.span[0] <= now < one.span[1]),
            connection=self.connection,
        )

    def changes(self) -> list[datetime]:
        """The instants at which what counts changes, in order."""
        parts: Iterable[ToldStep | ToldEnvelope] = (*self.steps, *self.envelopes)
        return sorted({edge for one in parts if one.span[0] < one.span[1] for edge in one.span})


class ToldAsKnown:
    """Dispatch and limits at each instant of a run; asked with times that never go back.

    ``schedule`` and ``limits`` hold before ``until``; from then on :meth:`move_to` tells those that follow.
    """

    __slots__ = ("_changes", "_next", "_planned", "_told", "limits", "schedule", "until")

    def __init__(self, told: Told, planned: SiteConfig) -> None:
        self._told, self._planned = told, planned
        self._changes = told.changes()
        self._next = 0
        self.schedule: tuple[ScheduleStep, ...] = ()
        self.limits = SiteLimits()
        self.until = ALWAYS

    def move_to(self, now: datetime) -> None:
        """Make ``schedule`` and ``limits`` those of ``now`` (UTC)."""
        while self._next < len(self._changes) and self._changes[self._next] <= now:
            self._next += 1
        self.until = self._changes[self._next] if self._next < len(self._changes) else NEVER
        outside = self._told.feed_at(now).at(now, self._planned)
        self.schedule, self.limits = outside.schedule, outside.limits


def limits_on(timeline: Timeline, told: Told, planned: SiteConfig) -> tuple[Series, Series]:
    """The import and the export limit of each step (kW): those at its start, as the controller takes them."""
    imports = np.full(timeline.count, planned.import_limit_kw)
    exports = np.full(timeline.count, planned.export_limit_kw)
    if not told.limits_site:
        return imports, exports
    edges = [timeline.start, *(edge for edge in told.changes() if timeline.start < edge < timeline.end)]
    for edge in edges:
        first = -((timeline.start - edge) // timeline.step)  # the first step that starts at or after it
        site = grid_range(0.0, planned, told.feed_at(edge).at(edge, planned).limits)
        imports[first:], exports[first:] = site.import_kw, site.export_kw
    return imports, exports
