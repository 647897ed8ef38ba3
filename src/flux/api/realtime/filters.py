"""Filters of a subscription: ``column=operator.value``, several with commas between them hold together. Pure.

::

    device_id=eq.6f0c…      soe=gte.20,soe=lt.80      site=in.(WLCE,HMCE)      resumed_at=is.null
    text=not.like.%test%    name=eq."with, comma"

Operators: eq, neq, lt, lte, gt, gte, in, is (null, true, false, unknown), isdistinct, like, ilike; ``not.`` before any.
As in SQL a comparison with null holds for nothing, nor does its opposite. (match and imatch are refused: a pattern of
PostgreSQL's would have to run there, for everybody who listens.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux.errors import InputError

MOST_CONDITIONS = 20
MOST_VALUES = 1000
_LONGEST = 40_000
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, operand: bool(value == operand),
    "neq": lambda value, operand: bool(value != operand),
    "lt": lambda value, operand: bool(value < operand),
    "lte": lambda value, operand: bool(value <= operand),
    "gt": lambda value, operand: bool(value > operand),
    "gte": lambda value, operand: bool(value >= operand),
}
_IS = {"null": None, "true": True, "false": False, "unknown": None}
_OTHERS = ("in", "is", "isdistinct", "like", "ilike")
_CONDITION = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62})=(not\.)?([a-z]+)\.(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Written:
    """A condition as the client wrote it: ``values`` are texts that the column's type still has to read."""

    column: str
    operator: str
    negated: bool
    values: tuple[str, ...]

    @property
    def typed(self) -> bool:
        """Whether ``values`` are values of the column."""
        return self.operator not in ("is", "like", "ilike")


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one column, its operands read as values of the column's type."""

    column: str
    operator: str
    negated: bool
    operands: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """For a value of the column; what SQL calls unknown holds for nothing."""
        found = self._holds(value)
        return found is not None and found is not self.negated

    def _holds(self, value: Any) -> bool | None:
        operator, operands = self.operator, self.operands
        if operator == "is":
            return value is operands[0]
        if operator == "isdistinct":
            return bool(value != operands[0])
        if value is None:
            return None
        if operator == "in":
            return value in operands
        if operator in ("like", "ilike"):
            return operands[0].fullmatch(value) is not None
        return _COMPARISONS[operator](value, operands[0])


@dataclass(frozen=True, slots=True)
class Filter:
    """All of its conditions hold together; none: every row."""

    conditions: tuple[Condition, ...] = ()

    def holds(self, row: Mapping[str, Any]) -> bool:
        """For the columns of a row that the conditions name."""
        return all(condition.holds(row[condition.column]) for condition in self.conditions)

    @property
    def columns(self) -> frozenset[str]:
        """What of a row has to be known."""
        return frozenset(condition.column for condition in self.conditions)


def parse_filter(text: str) -> tuple[Written, ...]:
    """The conditions of a filter; InputError says which part is wrong."""
    if len(text) > _LONGEST:
        raise InputError(f"a filter has at most {_LONGEST} characters")
    parts = _split(text)
    if len(parts) > MOST_CONDITIONS:
        raise InputError(f"a filter has at most {MOST_CONDITIONS} conditions")
    return tuple(_condition(part) for part in parts)


def _condition(text: str) -> Written:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InputError(f"filter {text!r}: write it like column=eq.value")
    column, negated, operator, rest = found.groups()
    if operator in ("match", "imatch"):
        raise InputError(f"filter {text!r}: {operator} is not served, use like or ilike")
    if operator not in _COMPARISONS and operator not in _OTHERS:
        raise InputError(f"filter {text!r}: operators are {', '.join([*_COMPARISONS, *_OTHERS])}")
    if operator == "in":
        if not (rest.startswith("(") and rest.endswith(")")):
            raise InputError(f"filter {text!r}: write it like column=in.(a,b)")
        values = tuple(_unquoted(value) for value in _split(rest[1:-1]))
        if len(values) > MOST_VALUES:
            raise InputError(f"in has at most {MOST_VALUES} values")
    else:
        values = (_unquoted(rest),)
    if operator == "is" and values[0] not in _IS:
        raise InputError(f"filter {text!r}: is knows {', '.join(_IS)}")
    return Written(column, operator, negated is not None, values)


def _split(text: str) -> list[str]:
    """At the commas that are outside of quotes and brackets."""
    parts, depth, quoted, begin, position = [], 0, False, 0, 0
    while position < len(text):
        char = text[position]
        if quoted and char == "\\":
            position += 1
        elif char == '"':
            quoted = not quoted
        elif not quoted and char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and not quoted and depth <= 0:
            parts.append(text[begin:position])
            begin = position + 1
        position += 1
    if quoted:
        raise InputError("a filter has a quote that does not end")
    return [*parts, text[begin:]]


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    return text


def read_condition(written: Written, values: Sequence[Any]) -> Condition:
    """With the operands that the database read as values of the column's type (those of like and is are texts)."""
    operands: tuple[Any, ...] = tuple(values)
    if written.operator == "is":
        operands = (_IS[written.values[0]],)
    elif written.operator in ("like", "ilike"):
        operands = (_pattern(written.values[0], ignore_case=written.operator == "ilike"),)
    return Condition(written.column, written.operator, written.negated, operands)


def _pattern(like: str, *, ignore_case: bool) -> re.Pattern[str]:
    """``%`` any text, ``_`` any character, a backslash takes the next one as it is. InputError: it ends in one.

    What stands between two ``%`` is looked for once, at its first place (an atomic group): another place further on
    would leave less for the rest. A pattern that tried them all could hold up everybody for hours.
    """
    parts, escaped = [""], False
    for char in like:
        if escaped or char not in "%_\\":
            parts[-1] += re.escape(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "%":
            parts.append("")
        else:
            parts[-1] += "."
    if escaped:
        raise InputError("a pattern of like must not end with a backslash")
    first, *between = parts
    text = first
    if between:
        text += "".join(f"(?>.*?{part})" for part in between[:-1] if part) + f".*{between[-1]}"
    return re.compile(text, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
