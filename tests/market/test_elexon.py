"""Elexon Insights, from a server on loopback that answers as it does."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.market.platforms import (
    Platform,
    Reply,
    Request,
    Time,
    connected,
    elexon,
    index_price,
    periods,
    system_price,
)

from flux.errors import UnavailableError
from flux.market import UnexpectedReplyError
from flux.market.elexon import Elexon
from flux.market.http import Manners
from flux.model import MarketDataType, MarketValue, SettlementPeriod, settlement_period

LATER = datetime(2030, 6, 1, tzinfo=UTC)
DAY = date(2026, 1, 15)
FIRST = SettlementPeriod(DAY, 1)
FREE = Manners(calls=1000, per_s=1, attempts=2, wait_initial_s=0, wait_jitter_s=0)


async def fetched(start: datetime, end: datetime, platform: Platform | None = None) -> list[MarketValue]:
    platform = platform or Platform(elexon)
    time = Time(LATER)
    async with connected("elexon", platform, time, FREE) as http:
        return await Elexon(http, time.now).fetch(start, end)


def serving(*rows: dict[str, Any]) -> Platform:
    return Platform(lambda r: Reply({"data": list(rows)}) if "system-prices" in r.path else Reply({"data": []}))


async def test_a_day_in_the_units_of_the_types() -> None:
    values = await fetched(FIRST.start, FIRST.start + timedelta(days=1))
    assert Counter(value.type for value in values) == dict.fromkeys((1, 2, 3, 5), 48)
    first = {value.type: value for value in values if value.time == FIRST.start}
    assert first[MarketDataType.IMBALANCE_PRICE].value == 101.0
    assert first[MarketDataType.IMBALANCE_VOLUME].value == -23.0  # MWh of the half hour
    assert first[MarketDataType.NIV].value == -46.0  # its mean MW
    assert first[MarketDataType.WHOLESALE_PRICE].value == 81.0
    price = first[MarketDataType.IMBALANCE_PRICE]
    assert price.known_at == FIRST.end + timedelta(minutes=15)
    assert price.metadata == {
        "source": "elexon", "settlement_date": "2026-01-15", "settlement_period": 1, "derivation": "N",
    }  # fmt: skip


@pytest.mark.parametrize(("day", "count"), [(date(2026, 3, 29), 46), (date(2026, 10, 25), 50), (date(2028, 2, 29), 48)])
async def test_days_of_another_length(day: date, count: int) -> None:
    all_of_it = periods(day)
    values = await fetched(all_of_it[0].start, all_of_it[-1].end)
    prices = [value for value in values if value.type == MarketDataType.IMBALANCE_PRICE]
    assert [settlement_period(value.time) for value in prices] == all_of_it
    assert len({value.time for value in prices}) == count == len(all_of_it)


async def test_only_what_was_asked_for() -> None:
    platform = Platform(elexon)
    values = await fetched(
        FIRST.start - timedelta(minutes=30), FIRST.end, platform
    )  # yesterday's last and today's first
    assert {value.time for value in values} == {FIRST.start - timedelta(minutes=30), FIRST.start}
    assert [path.rsplit("/", 1)[1] for path in platform.paths[:2]] == ["2026-01-14", "2026-01-15"]


async def test_a_long_span_is_asked_for_in_pieces() -> None:
    values = await fetched(FIRST.start, FIRST.start + timedelta(days=20))  # the server refuses more than 7 days at once
    assert Counter(value.type for value in values) == {1: 960, 3: 960, 5: 960, 2: 960 + 2}  # edges of pieces come twice
    assert len({(value.type, value.time) for value in values}) == 4 * 960


async def test_nulls_are_missing() -> None:
    values = await fetched(FIRST.start, FIRST.end, serving(system_price(FIRST, None, 4.0)))
    assert {value.type for value in values} == {MarketDataType.NIV, MarketDataType.IMBALANCE_VOLUME}
    assert await fetched(FIRST.start, FIRST.end, serving(system_price(FIRST, None, None))) == []


@pytest.mark.parametrize("created", [None, "2026-01-15T00:29:59Z", "2031-01-01T00:00:00Z"])
async def test_an_impossible_publication_time_is_not_believed(created: str | None) -> None:
    """Neither before the period was over nor in the future: then it is known since we have it."""
    platform = serving(system_price(FIRST, 50.0, 4.0, createdDateTime=created))
    assert [value.known_at for value in await fetched(FIRST.start, FIRST.end, platform)] == [None] * 3


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"settlementPeriod": 49}, "settlement period 49 is outside 1..48 of 2026-01-15"),
        ({"settlementPeriod": 0}, "settlement period 0 is outside"),
        ({"startTime": "2026-01-15T07:00:00Z"}, "period 1 with start .* it starts at"),
        ({"settlementDate": "2026-01-16"}, "asked for 2026-01-15, a row is of 2026-01-16"),
        ({"systemSellPrice": "n/a"}, "SystemPrice.systemSellPrice"),
        ({"systemSellPrice": float("nan")}, "SystemPrice.systemSellPrice"),
    ],
)
async def test_what_cannot_be_is_an_error(row: dict[str, Any], told: str) -> None:
    with pytest.raises(UnexpectedReplyError, match=told):
        await fetched(FIRST.start, FIRST.end, serving(system_price(FIRST, 50.0, 4.0) | row))


async def test_a_field_that_was_renamed_is_told() -> None:
    row = system_price(FIRST, 50.0, 4.0)
    row["imbalanceVolume"] = row.pop("netImbalanceVolume")
    with pytest.raises(UnexpectedReplyError, match="netImbalanceVolume: Field required"):
        await fetched(FIRST.start, FIRST.end, serving(row))
    with pytest.raises(UnexpectedReplyError, match="without a list `data`"):
        await fetched(FIRST.start, FIRST.end, Platform(lambda _: Reply({"rows": []})))


async def test_a_provider_without_trades_has_no_price() -> None:
    rows = [index_price(FIRST) | {"price": 0.0, "volume": 0.0}, index_price(FIRST, "N2EXMIDP")]
    values = await fetched(
        FIRST.start, FIRST.end, Platform(lambda r: Reply({"data": rows if "index" in r.path else []}))
    )
    assert values == []


async def test_a_settled_day_is_asked_for_once() -> None:
    time, platform = Time(LATER), Platform(elexon)
    async with connected("elexon", platform, time, FREE) as http:
        source = Elexon(http, time.now)
        for _ in range(3):
            await source.fetch(FIRST.start, FIRST.end)
    assert sum("system-prices" in path for path in platform.paths) == 1


async def test_trouble_halfway_gives_nothing() -> None:
    def sometimes(request: Request) -> Reply:
        return Reply(status=500) if request.path.endswith("2026-01-16") else elexon(request)

    with pytest.raises(UnavailableError, match="2026-01-16 answers 500"):
        await fetched(FIRST.start, FIRST.start + timedelta(days=3), Platform(sometimes))
