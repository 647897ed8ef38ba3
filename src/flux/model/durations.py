"""Durations as people write them: ``4s``, ``20m``, ``2h``, ``1d``, ``1h30m``, ``250ms``."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(ms|s|m|h|d)")
_PATTERN = r"^( *[0-9]{1,8}(\.[0-9]{1,9})? *([mM][sS]|[sSmMhHdD])){1,9} *$"
"""In Python and in SQL; no more digits and parts than a ``timedelta`` can hold."""
_WHOLE = re.compile(_PATTERN)


def parse_duration(text: str) -> timedelta:
    """``"1h30m"`` → 90 minutes; a bare number is refused, since nobody can tell its unit."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write it like 4s, 20m, 2h or 1h30m")
    return sum((timedelta(**{_UNITS[unit]: float(n)}) for n, unit in _PART.findall(text.lower())), timedelta())


def format_duration(duration: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back."""
    left = round(duration.total_seconds() * 1000)
    text = ""
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size_ms)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _validate(value: object) -> object:
    if isinstance(value, bool | int | float):
        raise ValueError(f"{value!r} has no unit; write it like 4s, 20m or 2h")  # noqa: TRY004 - pydantic wants ValueError
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    timedelta,
    BeforeValidator(_validate),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["4s", "1h30m"]}),
]
"""A pydantic field for durations: text in, ``timedelta`` inside, text out."""
