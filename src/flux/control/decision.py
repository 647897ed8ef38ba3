"""What a cycle decided, and every proposal that it was decided from."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from flux.control.state import Memory
from flux.model import CommandSource


class Limit(StrEnum):
    """The limits that can change a decision, in the order in which a decision lists them."""

    INVERTER = "inverter"
    SITE_IMPORT = "site_import"
    SITE_EXPORT = "site_export"
    SOE_MIN = "soe_min"
    SOE_MAX = "soe_max"


class ProposalRecord(NamedTuple):
    """What one entry of the plan proposed (kW, ±inf allowed, ``None``: unset), refused or not.

    ``entry`` is its place in the plan's ``modes``, from 0 (−1: a set-point by hand); a refusal is told in ``reason`` as
    well.
    """

    entry: int
    mode: str
    target_kw: float | None
    min_kw: float | None
    max_kw: float | None
    reason: str
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One cycle's outcome.

    ``target_power_kw`` (+ discharge, − charge) is ``None`` when nothing is to be sent. ``command_source`` and
    ``effective`` belong to the mode whose target was taken; both are ``None`` when idle or when nothing is sent.
    ``active`` lists the modes that proposed, in the plan's order. ``site_at_rest_kw`` is what the site would draw
    with the battery at rest. ``events`` are worth an alert: an unknown action, limits that leave no range.
    ``memory`` goes into the next cycle's state.
    """

    time: datetime
    target_power_kw: float | None
    command_source: CommandSource | None
    active: tuple[str, ...]
    effective: str | None
    limits: tuple[Limit, ...]
    proposals: tuple[ProposalRecord, ...]
    reason: str
    memory: Memory
    events: tuple[str, ...] = ()
    site_at_rest_kw: float | None = None


def withhold(decision: Decision, why: str) -> Decision:
    """``decision`` where nothing may be sent at all: without a target, and the reason says why."""
    return replace(
        decision, target_power_kw=None, command_source=None, effective=None, reason=f"nothing is sent: {why}"
    )
