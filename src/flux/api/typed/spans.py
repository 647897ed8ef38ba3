"""Spans of time as requests give them."""

from datetime import datetime, timedelta

from flux.errors import InputError


def span(
    start: datetime | None, end: datetime | None, now: datetime, longest_days: int | None
) -> tuple[datetime, datetime]:
    """[start, end); default: the 24 hours before ``end``, which is ``now`` by default. InputError where it is none.

    ``longest_days`` None: as long as may be.
    """
    until = end or now
    try:
        since = start or until - timedelta(hours=24)
    except OverflowError:
        raise InputError(f"end {until.isoformat()} is too early to have 24 hours before it; give a start") from None
    if since >= until:
        raise InputError(f"start {since.isoformat()} must be before end {until.isoformat()}")
    if longest_days is not None and until - since > timedelta(days=longest_days):
        raise InputError(f"the span is longer than {longest_days} days; ask for parts of it")
    return since, until
