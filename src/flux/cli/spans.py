"""Spans of time as commands take them, where a day means a settlement day."""

from datetime import datetime

from flux.cli.readings import _instant, _now
from flux.errors import InputError


def span(since: str, until: str | None) -> tuple[datetime, datetime]:
    """Start and end of a command; InputError where there is nothing between them."""
    now = _now()
    start = moment(since, now, "--from")
    end = now if until is None else moment(until, now, "--to")
    if start >= end:
        raise InputError(f"--from {since} is not before --to {until or 'now'}")
    return start, end


def moment(text: str, now: datetime, option: str) -> datetime:
    """As everywhere, but a day alone is a settlement day: it begins at midnight in Britain."""
    from datetime import date, time

    from flux.model import GB_TIMEZONE

    try:
        day = date.fromisoformat(text)
    except ValueError:
        return _instant(text, now, option)
    return datetime.combine(day, time(), GB_TIMEZONE)
