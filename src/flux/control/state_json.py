"""A cycle's state as JSON and back, exactly: ``decide`` of what is read back gives the decision that was taken.

::

    {"time": "2026-01-15T17:05:00+00:00",
     "site_power": {"value": 35.0, "time": "2026-01-15T17:04:58+00:00", "age_s": 2.0},
     "soe_kwh": {"value": 210.0, "time": "…", "age_s": 4.0}, "command_timeout": 30.0}

Keys are the fields of :class:`~flux.control.state.CycleState`, whatever they are: a field that is added there is kept
from then on. One that has its default is left out. Durations are seconds; what JSON (and PostgreSQL's jsonb) can't
hold of a float, not-a-number, infinities and −0, is text. ``age_s`` is for who reads; decoding passes over it.
"""

import math
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from flux.control.state import CycleState

StateT = TypeVar("StateT")
_NOTHING = type(None)


def encode_state(state: CycleState) -> dict[str, Any]:
    """What ``decide`` was given, as JSON can hold it; measurements and the last command with their ages."""
    body: dict[str, Any] = encode(state)
    for part in body.values():
        if isinstance(part, dict) and "time" in part:
            part["age_s"] = (state.time - datetime.fromisoformat(part["time"])).total_seconds()
    return body


def decode_state(body: dict[str, Any]) -> CycleState:
    """The state that was encoded; ValueError for what is none."""
    try:
        state: CycleState = decode(CycleState, body)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not the state of a control cycle: {type(error).__name__}: {error}") from error
    return state


def writable(value: float) -> float | str:
    """A float as jsonb gives it back unchanged."""
    if not math.isfinite(value) or (value == 0 and math.copysign(1.0, value) < 0):
        return repr(float(value))
    return value


def encode(value: Any) -> Any:
    """A frozen dataclass, and what it holds, as JSON can hold it."""
    if isinstance(value, float):
        return writable(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(one) for one in value]
    if is_dataclass(value):
        kind: Any = type(value)
        return {
            part.name: encode(getattr(value, part.name))
            for part in _parts(kind)
            if not part.is_default(getattr(value, part.name))
        }
    return value


class _Part(NamedTuple):
    """A field of a dataclass: what it holds, and what it is when it is left out."""

    name: str
    type: Any
    default: Any

    def is_default(self, value: Any) -> bool:
        if value is None:
            return self.default is None or self.default is MISSING
        return bool(value == self.default)

    def read(self, body: dict[str, Any]) -> Any:
        if self.name in body:
            return decode(self.type, body[self.name])
        if self.default is not MISSING:
            return self.default
        if _NOTHING in get_args(self.type):
            return None
        raise KeyError(self.name)


@cache
def _parts(kind: Any) -> tuple[_Part, ...]:
    return tuple(_part(field) for field in fields(kind))


def _part(field: "Field[Any]") -> _Part:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return _Part(field.name, field.type, default)


def decode(kind: Any, value: Any) -> Any:
    """What was encoded, as a ``kind`` again; KeyError, TypeError, AttributeError or ValueError for what is none."""
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(decode(inner[0], one) for one in value)
    if inner:  # X | None
        if value is None:
            return None
        (kind,) = (one for one in inner if one is not _NOTHING)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if kind is timedelta:
        return timedelta(seconds=value)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object")
        build: Any = kind  # mypy takes it for an instance as well
        return build(**{part.name: part.read(value) for part in _parts(build)})
    return kind(value)
