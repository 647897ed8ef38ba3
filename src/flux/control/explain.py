"""A kept decision in words: what was known and how old it was, what each mode proposed, whether replay agrees.

A *row* is one of the ledger, with ``inputs`` and ``plan_body``, as the database has it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from flux.control.decision import Decision, ProposalRecord
from flux.control.ledger import differences, plan_of_text, replay_kept
from flux.control.state import CycleState, MarketPair, Measurement
from flux.control.state_json import decode_state
from flux.control.steps import decision_line

Row = Mapping[str, Any]
_HELD = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A kept decision with what replaying it gave; ``again`` None: it could not be replayed, ``problem`` says why."""

    row: Row
    state: CycleState | None
    again: Decision | None
    differing: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def same(self) -> bool:
        """Whether replaying it gave the same decision."""
        return self.again is not None and not self.differing


def explain(row: Row) -> Explanation:
    """Replay a kept decision by the plan that it was made by."""
    try:
        state = decode_state(dict(row["inputs"]))
    except ValueError as error:
        return Explanation(row, None, None, problem=str(error))
    if row["plan_body"] is None:
        return Explanation(row, state, None, problem=f"its plan {row['plan_hash']} is not on the platform")
    try:
        plan = plan_of_text(row["plan_body"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Explanation(row, state, None, problem=f"this version does not take its plan ({where}: {first['msg']})")
    again = replay_kept(plan, row["inputs"])
    return Explanation(row, state, again, tuple(differences(row, again)))


def held_at(row: Row, instant: datetime) -> bool:
    """Whether the decision still stood at ``instant``; at least one a minute is kept while a controller runs."""
    interval = row["plan_body"].get("interval") if row["plan_body"] else None
    step = _plain_seconds(interval) if interval else timedelta()
    return bool(instant - row["time"] <= max(_HELD, 2 * step))


def _plain_seconds(text: str) -> timedelta:
    from flux.model import parse_duration

    return parse_duration(text)


def as_json(found: Explanation) -> dict[str, Any]:
    """For programs: the row, the proposals found again, and what differed."""
    row = {key: value for key, value in found.row.items() if key != "plan_body"}
    again = None if found.again is None else json.loads(decision_line(found.again))
    return {
        **row,
        "time": row["time"].isoformat(),
        "proposals": None if again is None else again["proposals"],
        "replay": {"same": found.same, "differing": list(found.differing), "problem": found.problem, "decision": again},
    }


def in_lines(found: Explanation, zone: ZoneInfo) -> Iterator[str]:
    """For people, times in ``zone``."""
    row = found.row
    plan = f"shadow plan {row['plan']}" if row["plan"] else "live plan"
    yield f"{row['device']} at {_clock(row['time'], zone, day=True)} ({plan} {row['plan_hash']})"
    yield row["reason"]
    if row["limits"]:
        yield f"limits that changed it: {', '.join(row['limits'])}"
    for fault in row["faults"]:
        yield f"fault: {fault}"
    if found.state is not None:
        yield from ("", "What it knew:", *_inputs(found.state, zone))
    if found.again is not None and found.again.proposals:
        yield from ("", "What the modes proposed, highest priority first:", *map(_proposal, found.again.proposals))
    if row["commands"]:
        yield from ("", "What became of it:", *(_became(command, zone) for command in row["commands"]))
    yield ""
    if found.again is None:
        yield f"It can't be replayed: {found.problem}."
    elif found.same:
        yield "Replaying it gives the same decision."
    else:
        yield f"Replaying it gives another decision: {', '.join(found.differing)} differ. It says now:"
        yield found.again.reason


def _became(command: Mapping[str, Any], zone: ZoneInfo) -> str:
    asked, holds = command["asked_kw"], command["acknowledged_kw"]
    told = "nothing was asked" if asked is None else f"asked for {asked:+.1f} kW, "
    if asked is not None:
        told += "written" if command["written"] else "not written again"
    if holds is None:
        return _line(command["battery"], f"{told}; no command is in force")
    at = f"{datetime.fromisoformat(command['acknowledged_at']).astimezone(zone):%H:%M:%S}"
    return _line(command["battery"], f"{told}; {holds:+.1f} kW is in force, acknowledged at {at}")


def _inputs(state: CycleState, zone: ZoneInfo) -> Iterator[str]:
    yield _line("site power", _measured(state.site_power, "kW", state.time))
    yield _line("SoE", _measured(state.soe_kwh, "kWh", state.time))
    yield _line("battery power", _measured(state.battery_power, "kW", state.time, "not measured"))
    command = state.last_command
    if command is not None:
        age = _age(state.time - command.time)
        yield _line("last command", f"{command.power_kw:.1f} kW, acknowledged {age} before")
    yield _line("market", "; ".join(_pair(pair, zone) for pair in state.market.pairs) or "nothing known")
    for step in state.schedule:
        yield _line("schedule", f"{_clock(step.start, zone)} to {_clock(step.end, zone)} {step.action}")
    for name, value in (("import", state.limits.import_kw), ("export", state.limits.export_kw)):
        if value is not None:
            yield _line(f"{name} limit now", f"{value:.1f} kW")
    can = state.capability
    if can.charge_limit_kw is not None and can.discharge_limit_kw is not None:
        yield _line("battery says", f"charge {can.charge_limit_kw:.1f} kW, discharge {can.discharge_limit_kw:.1f} kW")
    if can.available_blocks is not None:
        yield _line(
            "blocks available", f"{can.available_blocks}{f' of {can.blocks_total}' if can.blocks_total else ''}"
        )
    for begun in state.memory.full_discharges:
        where = f"entry {begun.entry + 1} of the plan, in its period from {_clock(begun.period_start, zone)}"
        yield _line("begun before", f"full discharge by {where} ({begun.cause})")
    if state.stop is not None:
        yield _line("stop", f"{state.stop.reason}, since {_clock(state.stop.since, zone, day=True)}")


def _line(name: str, words: str) -> str:
    return f"  {name:<18}{words}"


def _measured(one: Measurement | None, unit: str, now: datetime, none: str = "no reading") -> str:
    return none if one is None else f"{one.value:.1f} {unit}, {_age(now - one.time)} old"


def _age(age: timedelta) -> str:
    return f"{age.total_seconds():.1f} s" if abs(age) < timedelta(hours=1) else str(age).partition(".")[0]


def _pair(pair: MarketPair, zone: ZoneInfo) -> str:
    return f"from {_clock(pair.sp_start, zone)} £{pair.price:.2f}/MWh, NIV {pair.niv_mw:+.0f} MW"


def _proposal(record: ProposalRecord) -> str:
    parts = [
        f"{name} {value:+.1f}"
        for name, value in (("target", record.target_kw), ("min", record.min_kw), ("max", record.max_kw))
        if value is not None
    ]
    return f"  {record.mode:<27}{', '.join(parts)} kW: {record.reason}"


def _clock(instant: datetime, zone: ZoneInfo, *, day: bool = False) -> str:
    local = instant.astimezone(zone)
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if day else "%H:%M")
