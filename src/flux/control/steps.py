"""Steps of a replay: one JSON object a line in, checked key by key; one JSON object a line out.

Checked by hand rather than by pydantic's models, which would take most of the time of a long replay; its JSON parser
and writer are the fastest at hand.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from flux.control.decision import Decision, ProposalRecord
from flux.control.state import MarketPair, MarketState, Measurement, ScheduleStep, SiteLimits

# the calendar itself ends soon after, and a period of yesterday or tomorrow has to be in it
_FIRST_YEAR, _LAST_YEAR = 1900, 9000

_KEYS = frozenset(
    {
        "time",
        "soe_kwh",
        "soe_at",
        "site_power_kw",
        "site_power_at",
        "net_load_kw",
        "bess_power_kw",
        "bess_power_at",
        "market",
        "site",
        "schedule",
    }
)


class StepError(ValueError):
    """A field of a step is wrong; the message names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step as given; ``None`` where the step says nothing. ``net_load_kw`` stands in for the site's power."""

    time: datetime
    soe: Measurement | None
    site_power: Measurement | None
    net_load_kw: float | None
    site_power_at: datetime
    bess_power: Measurement | None
    market: MarketState
    limits: SiteLimits
    schedule: tuple[ScheduleStep, ...] | None


def parse_step(line: str | bytes) -> Step:
    """Read one line; a :class:`StepError` names the field, its value and what is expected."""
    try:
        data = from_json(line)
    except ValueError as error:
        raise StepError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise StepError(f"expected an object, found {type(data).__name__}")
    if unknown := data.keys() - _KEYS:
        raise StepError(f"{min(unknown)}: unknown key; known are {', '.join(sorted(_KEYS))}")
    time = _time(data, "time")
    if time is None:
        raise StepError("time: is missing")
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise StepError(f"time: {data['time']!r}: expected a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    site_power, net_load = _number(data, "site_power_kw"), _number(data, "net_load_kw")
    if data.get("site_power_kw") is not None and data.get("net_load_kw") is not None:
        raise StepError("net_load_kw: give either it or site_power_kw, not both")
    site_at = _time(data, "site_power_at") or time
    return Step(
        time=time,
        soe=_measurement(_number(data, "soe_kwh"), _time(data, "soe_at") or time),
        site_power=_measurement(site_power, site_at),
        net_load_kw=net_load,
        site_power_at=site_at,
        bess_power=_measurement(_number(data, "bess_power_kw"), _time(data, "bess_power_at") or time),
        market=_market(data.get("market")),
        limits=_limits(data.get("site")),
        schedule=_schedule(data.get("schedule")),
    )


def decision_line(decision: Decision) -> str:
    """The decision as one line of JSON; ±∞ as ``"inf"`` and ``"-inf"``."""
    source = decision.command_source
    body = {
        "time": decision.time.isoformat().replace("+00:00", "Z"),
        "target_power_kw": decision.target_power_kw,
        "command_source": None if source is None else int(source),
        "active": decision.active,
        "effective": decision.effective,
        "limits": decision.limits,
        "proposals": [_proposal(proposal) for proposal in decision.proposals],
        "reason": decision.reason,
    }
    return to_json(body).decode()


def _proposal(proposal: ProposalRecord) -> dict[str, Any]:
    return {
        "mode": proposal.mode,
        "target_kw": _writable(proposal.target_kw),
        "min_kw": _writable(proposal.min_kw),
        "max_kw": _writable(proposal.max_kw),
        "reason": proposal.reason,
    }


def _writable(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value if value is None else value + 0.0  # + 0.0: no "-0.0"
    return "inf" if value > 0 else "-inf"


def _measurement(value: float | None, time: datetime) -> Measurement | None:
    return None if value is None else Measurement(value, time)


def _number(data: Mapping[str, Any], key: str, where: str = "") -> float | None:
    """The number at ``key``; ``None`` where it is null, missing or not finite."""
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StepError(f"{where}{key}: {value!r}: expected a number")
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _time(data: Mapping[str, Any], key: str, where: str = "") -> datetime | None:
    """The instant at ``key``, in UTC; ``None`` where it is null or missing."""
    value = data.get(key)
    if value is None:
        return None
    instant = _instant(value) if isinstance(value, str) else None
    if instant is None:
        raise StepError(f"{where}{key}: {value!r}: expected a time with its offset, like 2026-01-15T17:05:00Z")
    return instant


@lru_cache(maxsize=256)
def _instant(text: str) -> datetime | None:
    """The instant in UTC; ``None`` for what is none or has no offset. A step tells most of its times twice or more."""
    try:
        instant = datetime.fromisoformat(text)
        return None if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _object(value: Any, where: str, keys: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StepError(f"{where}: {value!r}: expected an object")
    if unknown := value.keys() - keys:
        raise StepError(f"{where}.{min(unknown)}: unknown key; known are {', '.join(sorted(keys))}")
    return value


def _market(value: Any) -> MarketState:
    """The pair, when both halves are there and are about the same settlement period."""
    if value is None:
        return _NO_MARKET
    market = _object(value, "market", frozenset({"price", "niv"}))
    if market.get("price") is None or market.get("niv") is None:
        return _NO_MARKET
    price = _object(market["price"], "market.price", frozenset({"value", "sp_start"}))
    niv = _object(market["niv"], "market.niv", frozenset({"value_mw", "sp_start"}))
    price_value, niv_value = _number(price, "value", "market.price."), _number(niv, "value_mw", "market.niv.")
    price_sp, niv_sp = _time(price, "sp_start", "market.price."), _time(niv, "sp_start", "market.niv.")
    if price_value is None or niv_value is None or price_sp is None or price_sp != niv_sp:
        return _NO_MARKET
    return MarketState((MarketPair(price_sp, price_value, niv_value),))


def _limits(value: Any) -> SiteLimits:
    if value is None:
        return _PLAN_LIMITS
    site = _object(value, "site", frozenset({"import_limit_kw", "export_limit_kw"}))
    return SiteLimits(_number(site, "import_limit_kw", "site."), _number(site, "export_limit_kw", "site."))


def _schedule(value: Any) -> tuple[ScheduleStep, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise StepError(f"schedule: {value!r}: expected a list of steps")
    return tuple(_schedule_step(step, f"schedule[{number}]") for number, step in enumerate(value))


def _schedule_step(value: Any, where: str) -> ScheduleStep:
    step = _object(value, where, frozenset({"start", "end", "action"}))
    start, end, action = _time(step, "start", f"{where}."), _time(step, "end", f"{where}."), step.get("action")
    if start is None or end is None:
        raise StepError(f"{where}.{'start' if start is None else 'end'}: is missing")
    if end <= start:
        raise StepError(f"{where}.end: {step['end']!r}: must be after the step's start")
    if not isinstance(action, str):
        raise StepError(f"{where}.action: {action!r}: expected text like avoid_import")
    return ScheduleStep(start, end, action)


_NO_MARKET = MarketState()
_PLAN_LIMITS = SiteLimits()
