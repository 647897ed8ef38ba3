"""Decisions as they are kept: what went in, what came out, and by which plan; replaying one gives the same again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flux.control.decide import decide
from flux.control.decision import Decision, withhold
from flux.control.plan import ControllerPlan, plan_hash
from flux.control.state import CycleState
from flux.control.state_json import decode_state, encode_state, writable
from flux.model import DeviceId

LIVE = ""
"""The name of the plan that has the battery; a shadow plan has its own."""
POWER_BAND_KW = 0.01
"""A target that differs by no more than this from the one kept last is no other decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDecision:
    """One decision of the ledger.

    ``device_id`` is the plan's first battery; the decision is about all of them together. Powers in kW, + discharge.
    ``stale``: nothing was decided because a reading was missing or too old. ``events`` are the decision's own;
    ``faults`` what went wrong at the batteries in that cycle (a command not acknowledged). ``inputs``:
    :func:`~flux.control.state_json.encode_state`, with ``withheld`` where the edge may not command at all: the reason.
    """

    device_id: DeviceId
    plan: str
    time: datetime
    plan_hash: str
    target_power_kw: float | None
    command_source: int | None
    active: tuple[str, ...]
    effective: str | None
    limits: tuple[str, ...]
    reason: str
    stale: bool
    events: tuple[str, ...]
    faults: tuple[str, ...] = ()
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlanText:
    """A plan by its hash; ``body`` is JSON, and so YAML, that loads to the same plan."""

    hash: str
    body: str


def plan_text(plan: ControllerPlan) -> PlanText:
    """The whole plan, defaults included."""
    return PlanText(plan_hash(plan), json.dumps(_in_json(plan.model_dump(mode="json", by_alias=True)), sort_keys=True))


def plan_of_text(body: Mapping[str, Any]) -> ControllerPlan:
    """The plan of a :class:`PlanText`'s parsed body; pydantic's ValidationError when this version can't have it."""
    return ControllerPlan.model_validate(body)


def keep(
    decision: Decision,
    state: CycleState,
    *,
    device_id: DeviceId,
    hash_of_plan: str,
    plan: str = LIVE,
    faults: tuple[str, ...] = (),
    withheld: str | None = None,
) -> KeptDecision:
    """``decision`` and the ``state`` that it was made from, for the ledger; ``withheld``: why it was not sent."""
    source = decision.command_source
    return KeptDecision(
        device_id=device_id,
        plan=plan,
        time=decision.time,
        plan_hash=hash_of_plan,
        target_power_kw=decision.target_power_kw,
        command_source=None if source is None else int(source),
        active=decision.active,
        effective=decision.effective,
        limits=tuple(limit.value for limit in decision.limits),
        reason=decision.reason,
        stale=is_stale(decision, state),
        events=decision.events,
        faults=faults,
        inputs=encode_state(state) | ({} if withheld is None else {"withheld": withheld}),
    )


def is_stale(decision: Decision, state: CycleState) -> bool:
    """Whether readings were missing or too old to decide on."""
    return state.stop is None and decision.site_at_rest_kw is None


def is_news(before: KeptDecision, decision: Decision, stale: bool, faults: tuple[str, ...]) -> bool:
    """Whether ``decision`` is worth keeping after ``before``: another outcome, or another minute of the clock."""
    if decision.time.replace(second=0, microsecond=0) != before.time.replace(second=0, microsecond=0):
        return True
    if (before.effective, before.active, before.limits) != (decision.effective, decision.active, decision.limits):
        return True
    if (before.stale, before.events, before.faults) != (stale, decision.events, faults):
        return True
    then, now = before.target_power_kw, decision.target_power_kw
    return then is not now if then is None or now is None else abs(now - then) > POWER_BAND_KW


def replay_kept(plan: ControllerPlan, inputs: Mapping[str, Any]) -> Decision:
    """Decide once more on kept inputs; ValueError for inputs that this version can't read."""
    decision = decide(plan, decode_state(dict(inputs)))
    return withhold(decision, inputs["withheld"]) if "withheld" in inputs else decision


def differences(kept: Mapping[str, Any], again: Decision) -> list[str]:
    """The fields in which a kept decision (a row of the ledger) differs from replaying it; none is as it should be."""
    source = again.command_source
    now = {
        "target_power_kw": again.target_power_kw,
        "command_source": None if source is None else int(source),
        "active": list(again.active),
        "effective": again.effective,
        "limits": [limit.value for limit in again.limits],
        "reason": again.reason,
        "events": list(again.events),
    }
    return [name for name, value in now.items() if kept[name] != value]


def _in_json(value: Any) -> Any:
    """Infinite prices of a curve as text, which pydantic reads as numbers."""
    if isinstance(value, float):
        return writable(value)
    if isinstance(value, dict):
        return {key: _in_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_in_json(one) for one in value]
    return value
