"""Durations as people write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.model import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4s", 4), ("20m", 1200), ("2h", 7200), ("1200s", 1200), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_examples(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "4", "s", "4 parsecs", "-4s", "4s!", "1h 30", "soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 10**10).map(lambda ms: timedelta(milliseconds=ms)))
def test_what_is_written_is_read_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
