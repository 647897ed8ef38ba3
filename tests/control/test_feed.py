"""What of a feed counts at an instant, and that it survives being kept as JSON."""

import json
from datetime import timedelta

import pytest
from tests.control.kit import at

from flux.control.feed import ControlFeed, PushedPlan
from flux.control.parts import SiteConfig
from flux.control.state import Envelope, MarketPair, ScheduleStep, SiteLimits

PLANNED = SiteConfig(import_limit_kw=220, export_limit_kw=475)
NOW = at("2026-01-15 17:05")
HOUR = timedelta(hours=1)


def pair(start: str, price: float = 95.0) -> MarketPair:
    return MarketPair(at(start), price, -120.0)


def envelope(import_kw: float | None, export_kw: float | None = None, *, over: bool = False) -> Envelope:
    """Begun an hour ago; ``over``: ended this very moment."""
    return Envelope(NOW - HOUR, NOW if over else NOW + HOUR, SiteLimits(import_kw, export_kw))


def limits(*envelopes: Envelope, connection: SiteLimits | None = None) -> SiteLimits:
    feed = ControlFeed(envelopes=envelopes, connection=connection or SiteLimits())
    return feed.at(NOW, PLANNED).limits


def test_of_the_market_the_present_half_hour_and_the_one_before_are_looked_at() -> None:
    pairs = tuple(pair(f"2026-01-15 {start}") for start in ("16:00", "16:30", "17:00", "17:30"))
    assert ControlFeed(pairs=pairs).at(NOW, PLANNED).market.pairs == pairs[1:3]
    assert ControlFeed(pairs=pairs).at(at("2026-01-15 19:00"), PLANNED).market.pairs == ()


def test_a_schedule_counts_while_its_steps_hold_in_their_order() -> None:
    long = ScheduleStep(NOW - HOUR, NOW + HOUR, "avoid_import")
    short = ScheduleStep(NOW, NOW + HOUR, "discharge_max")
    over = ScheduleStep(NOW - HOUR, NOW, "charge_max")
    feed = ControlFeed(schedule=(over, long, short))
    assert feed.at(NOW, PLANNED).schedule == (long, short)
    assert feed.at(NOW - timedelta(seconds=1), PLANNED).schedule == (over, long)
    assert feed.at(NOW + HOUR, PLANNED).schedule == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), SiteLimits()),
        ((envelope(100),), SiteLimits(100, None)),
        ((envelope(300, 500),), SiteLimits(300, 500)),  # wider than the plan's: that is what a dynamic connection is
        ((envelope(100), envelope(50, 10)), SiteLimits(100, 10)),  # the first that says so
        ((envelope(0),), SiteLimits(0, None)),
        ((envelope(100, over=True),), SiteLimits()),
    ],
)
def test_an_envelope_takes_the_place_of_the_plans_limits_while_it_lasts(
    given: tuple[Envelope, ...], expected: SiteLimits
) -> None:
    assert limits(*given) == expected


@pytest.mark.parametrize(
    ("told", "connection", "expected"),
    [
        (None, 300, None),  # the plan asks for less than the connection carries
        (None, 150, 150),
        (300, 250, 250),
        (100, 250, 100),
        (None, 0, 0),
    ],
)
def test_nothing_is_above_what_the_connection_carries(
    told: float | None, connection: float, expected: float | None
) -> None:
    given = () if told is None else (envelope(told),)
    assert limits(*given, connection=SiteLimits(import_kw=connection)).import_kw == expected


def test_it_is_the_same_after_json_and_its_cursor_follows_its_content() -> None:
    feed = ControlFeed(
        (pair("2026-01-15 17:00"),),
        (ScheduleStep(NOW, NOW + HOUR, "discharge_max"),),
        (envelope(100.0),),
        SiteLimits(None, 400.0),
        PushedPlan("abc", '{"bess": []}', "anna", NOW),
    )
    again = ControlFeed.from_json(json.loads(json.dumps(feed.to_json())))
    assert again == feed
    assert again.cursor == feed.cursor
    assert ControlFeed(pairs=(pair("2026-01-15 17:00", 96.0),)).cursor != ControlFeed(pairs=feed.pairs).cursor
    with pytest.raises(ValueError, match="not a control feed"):
        ControlFeed.from_json({"pairs": [{"sp_start": "yesterday"}]})
