"""Time zones and holiday calendars by name, checked when the plan is loaded."""

import difflib
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of the database is an OSError
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; write it like Europe/London"
        raise ValueError(f"unknown time zone{hint}") from None
    return name


def _check_calendar(name: str) -> str:
    holidays_of(name)
    return name


@lru_cache(maxsize=16)
def holidays_of(name: str) -> Callable[[date], bool]:
    """Whether a date is a public holiday by the calendar ``name``: ``GB-ENG``, ``DE``; a wrong name is a ValueError."""
    import holidays

    country, _, part = name.partition("-")
    try:
        calendar = holidays.country_holidays(country, subdiv=part or None)
    except NotImplementedError:
        raise ValueError("unknown holiday calendar; write a country and its part, like GB-ENG") from None
    return calendar.__contains__


ZoneName = Annotated[str, AfterValidator(_check_zone)]
CalendarName = Annotated[str, AfterValidator(_check_calendar)]
