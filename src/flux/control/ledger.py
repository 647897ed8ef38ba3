"""Decisions as they are kept: what went in, what came out, and by which plan; replaying one gives the same again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

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


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong since ``since``: its kind in one word, the device that it is about, and in words."""

    kind: str
    device: str
    since: datetime
    words: str

    @property
    def identity(self) -> tuple[str, str, datetime]:
        """The same for as long as it lasts, however its words change."""
        return self.kind, self.device, self.since

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind, "device": self.device, "since": self.since.isoformat(), "words": self.words}


@dataclass(frozen=True, slots=True)
class BatteryCommand:
    """What became of a decision at one battery; powers in kW, + discharge.

    ``asked_kw`` is its part after damping and split; None: nothing was asked of it. ``written``: in this cycle; a power
    that is in force already is not written again. ``acknowledged_kw`` is what holds after the cycle, as the battery
    acknowledged it at ``acknowledged_at``; None: nothing does. ``register_writes_today``: so far, by the UTC day.
    """

    battery: str
    asked_kw: float | None
    written: bool
    acknowledged_kw: float | None
    acknowledged_at: datetime | None
    register_writes_today: int = 0

    def as_json(self) -> dict[str, Any]:
        at = None if self.acknowledged_at is None else self.acknowledged_at.isoformat()
        return {
            "battery": self.battery,
            "asked_kw": self.asked_kw,
            "written": self.written,
            "acknowledged_kw": self.acknowledged_kw,
            "acknowledged_at": at,
            "register_writes_today": self.register_writes_today,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDecision:
    """One decision of the ledger.

    ``device_id`` is the plan's first battery; the decision is about all of them together. Powers in kW, + discharge.
    ``stale``: nothing was decided because a reading was missing or too old. ``events`` are the decision's own;
    ``faults`` what was wrong in that cycle (a command not acknowledged), in words; ``fault_details`` the same with
    kind, device and since. ``sent_power_kw`` is what was asked of all batteries together after damping, and
    ``commands`` what became of it at each (:class:`BatteryCommand`). ``inputs``:
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
    fault_details: tuple[Mapping[str, Any], ...] = ()
    sent_power_kw: float | None = None
    commands: tuple[Mapping[str, Any], ...] = ()
    inputs: Mapping[str, Any]


def kept_to_json(decision: KeptDecision) -> dict[str, Any]:
    """The whole decision as JSON can hold it."""
    body = {field.name: getattr(decision, field.name) for field in fields(decision)}
    return body | {"device_id": str(decision.device_id), "time": decision.time.isoformat()}


def kept_from_json(body: Mapping[str, Any]) -> KeptDecision:
    """KeyError, TypeError or ValueError for what is none; a field that this version does not have is left out."""
    values = {field.name: body[field.name] for field in fields(KeptDecision) if field.name in body}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    values["device_id"] = DeviceId(UUID(values["device_id"]))
    values["time"] = datetime.fromisoformat(values["time"])
    return KeptDecision(**values)


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
    faults: Sequence[Fault] = (),
    commands: Sequence[BatteryCommand] = (),
    withheld: str | None = None,
) -> KeptDecision:
    """``decision`` and the ``state`` that it was made from, for the ledger; ``withheld``: why it was not sent."""
    source = decision.command_source
    asked = [command.asked_kw for command in commands if command.asked_kw is not None]
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
        faults=tuple(fault.words for fault in faults),
        fault_details=tuple(fault.as_json() for fault in faults),
        sent_power_kw=sum(asked) if asked else None,
        commands=tuple(command.as_json() for command in commands),
        inputs=encode_state(state) | ({} if withheld is None else {"withheld": withheld}),
    )


def is_stale(decision: Decision, state: CycleState) -> bool:
    """Whether readings were missing or too old to decide on."""
    return state.stop is None and decision.site_at_rest_kw is None


def is_news(
    before: KeptDecision,
    decision: Decision,
    stale: bool,
    faults: Sequence[Fault] = (),
    commands: Sequence[BatteryCommand] = (),
) -> bool:
    """Whether ``decision`` is worth keeping after ``before``: another outcome, or another minute of the clock."""
    if decision.time.replace(second=0, microsecond=0) != before.time.replace(second=0, microsecond=0):
        return True
    if (before.effective, before.active, before.limits) != (decision.effective, decision.active, decision.limits):
        return True
    known = [(one["kind"], one["device"], datetime.fromisoformat(one["since"])) for one in before.fault_details]
    if (before.stale, before.events, known) != (stale, decision.events, [fault.identity for fault in faults]):
        return True
    if _differ(before.target_power_kw, decision.target_power_kw) or len(before.commands) != len(commands):
        return True
    return any(_told_otherwise(then, now) for then, now in zip(before.commands, commands, strict=True))


def _told_otherwise(then: Mapping[str, Any], now: BatteryCommand) -> bool:
    if then["battery"] != now.battery:
        return True
    return _differ(then["asked_kw"], now.asked_kw) or _differ(then["acknowledged_kw"], now.acknowledged_kw)


def _differ(then: float | None, now: float | None) -> bool:
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
