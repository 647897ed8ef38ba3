"""What the platform tells a site's controller: market, dispatch, envelopes, a plan; and what of it counts when.

The edge keeps the newest feed and goes on with it when the platform is away: steps and envelopes end by their own
times, and of the market only the present half hour and the one before are ever looked at.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from flux.control.parts import SiteConfig
from flux.control.state import Envelope, MarketPair, MarketState, ScheduleStep, SiteLimits
from flux.control.state_json import decode, encode
from flux.model import SETTLEMENT_PERIOD, period_start


class Outside(NamedTuple):
    """What of the world outside the site goes into a cycle."""

    market: MarketState = MarketState()
    schedule: tuple[ScheduleStep, ...] = ()
    limits: SiteLimits = SiteLimits()


@dataclass(frozen=True, slots=True)
class PushedPlan:
    """A plan that was pushed to the site; ``body`` is the controller section as JSON."""

    hash: str
    body: str
    actor: str
    pushed_at: datetime


@dataclass(frozen=True, slots=True)
class ControlFeed:
    """Everything of one site that has not ended.

    ``schedule`` and ``envelopes`` stand in the order in which they count; of ``pairs`` the later one of a settlement
    period. ``connection``: what the grid connection carries (the registry's row of the site), which neither a plan nor
    an envelope can widen.
    """

    pairs: tuple[MarketPair, ...] = ()
    schedule: tuple[ScheduleStep, ...] = ()
    envelopes: tuple[Envelope, ...] = ()
    connection: SiteLimits = field(default_factory=SiteLimits)
    plan: PushedPlan | None = None

    @property
    def cursor(self) -> str:
        """Names this state of the feed: equal feeds have equal cursors."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = encode(self)
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "ControlFeed":
        """ValueError for what is none."""
        try:
            feed: ControlFeed = decode(cls, body)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a control feed: {type(error).__name__}: {error}") from error
        return feed

    def at(self, now: datetime, planned: SiteConfig) -> Outside:
        """What counts at ``now`` for a plan with the site limits ``planned``."""
        sp_start = period_start(now)
        looked_at = (sp_start - SETTLEMENT_PERIOD, sp_start)
        pairs = tuple(pair for pair in self.pairs if pair.sp_start in looked_at)
        steps = tuple(step for step in self.schedule if step.start <= now < step.end)
        return Outside(MarketState(pairs), steps, self._limits(now, planned))

    def _limits(self, now: datetime, planned: SiteConfig) -> SiteLimits:
        held = [envelope.limits for envelope in self.envelopes if envelope.start <= now < envelope.end]
        import_kw = next((limits.import_kw for limits in held if limits.import_kw is not None), None)
        export_kw = next((limits.export_kw for limits in held if limits.export_kw is not None), None)
        return SiteLimits(
            _carried(import_kw, planned.import_limit_kw, self.connection.import_kw),
            _carried(export_kw, planned.export_limit_kw, self.connection.export_kw),
        )


def _carried(told_kw: float | None, planned_kw: float, connection_kw: float | None) -> float | None:
    """The limit to use in place of the plan's, never above what the connection carries; None: the plan's."""
    wanted_kw = planned_kw if told_kw is None else told_kw
    return told_kw if connection_kw is None or connection_kw >= wanted_kw else connection_kw
