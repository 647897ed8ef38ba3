"""Modo's live endpoints, from a server on loopback."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.market.platforms import Platform, Reply, Request, Time, connected, periods
from tests.support import NOON

from flux.errors import RefusedError
from flux.market import UnexpectedReplyError
from flux.market.http import Manners
from flux.market.modo import Modo
from flux.model import MarketDataType, MarketValue, SettlementPeriod

FREE = Manners(calls=1000, per_s=1, attempts=2, wait_initial_s=0, wait_jitter_s=0)
HALF_HOUR = timedelta(minutes=30)


class Live:
    """Prices and volumes by period; served newest first, in pages of ``page``, within the dates asked for."""

    def __init__(self, prices: dict[SettlementPeriod, Any], niv: dict[SettlementPeriod, Any], page: int = 100) -> None:
        self.data = {"system_price": prices, "niv": niv}
        self.page = page
        self.platform = Platform(self)

    def __call__(self, request: Request) -> Reply:
        if request.headers.get("x-token") != "secret":
            return Reply({"detail": "Invalid token"}, status=401)
        endpoint = request.path.removeprefix("/pub/v1/gb/modo/markets/")
        name = {"system-price-live": "system_price", "niv-live": "niv"}[endpoint]
        first, last = (date.fromisoformat(request.query[name]) for name in ("date_from", "date_to"))
        rows = [
            {"date": f"{p.day}", "settlement_period": p.number, name: value}
            for p, value in sorted(self.data[name].items(), reverse=True)
            if first <= p.day <= last
        ]
        at = int(request.query.get("offset", 0))
        more = f"{self.platform.url}{request.path}?date_from={first}&date_to={last}&offset={at + self.page}"
        return Reply({"next": more if len(rows) > at + self.page else None, "results": rows[at : at + self.page]})


async def fetched(live: Live, start: datetime, end: datetime, token: str | None = "secret") -> list[MarketValue]:
    async with connected("modo", live.platform, Time(NOON), FREE) as http:
        return await Modo(http, token).fetch(start, end)


def by_type(values: list[MarketValue], type: MarketDataType) -> dict[datetime, float]:
    return {value.time: value.value for value in values if value.type == type}


async def test_prices_and_niv_in_our_units() -> None:
    day = date(2026, 1, 15)
    live = Live({SettlementPeriod(day, 25): 82.5}, {SettlementPeriod(day, 25): 60.5})
    values = await fetched(live, NOON - HALF_HOUR, NOON + HALF_HOUR)
    assert by_type(values, MarketDataType.IMBALANCE_PRICE) == {NOON: 82.5}
    assert by_type(values, MarketDataType.NIV) == {NOON: 121.0}  # MWh of a half hour as MW
    assert values[0].metadata == {"source": "modo", "settlement_date": "2026-01-15", "settlement_period": 25}
    assert values[0].known_at is None  # since it is stored


async def test_yesterdays_last_period_just_after_midnight() -> None:
    """In summer local midnight is 23:00 UTC: the period before it belongs to another date."""
    last = SettlementPeriod(date(2026, 6, 15), 48)
    live = Live({last: 50.0}, {last: -10.0})
    midnight = last.end
    assert midnight == datetime(2026, 6, 15, 23, tzinfo=UTC)
    values = await fetched(live, midnight - timedelta(hours=1), midnight + timedelta(minutes=4))
    assert by_type(values, MarketDataType.NIV) == {last.start: -20.0}


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
async def test_clock_changes(day: date) -> None:
    all_of_it = periods(day)
    prices = {period: float(period.number) for period in all_of_it}
    values = await fetched(Live(prices, {}, page=7), all_of_it[0].start, all_of_it[-1].end)
    found = by_type(values, MarketDataType.IMBALANCE_PRICE)
    assert found == {period.start: float(period.number) for period in all_of_it}


async def test_nulls_are_missing() -> None:
    day = date(2026, 1, 15)
    live = Live({SettlementPeriod(day, 25): None}, {SettlementPeriod(day, 25): 0.0})
    values = await fetched(live, NOON, NOON + HALF_HOUR)
    assert [(value.type, value.value) for value in values] == [(MarketDataType.NIV, 0.0)]


def _always(*results: dict[str, Any], **more: Any) -> Live:
    live = Live({}, {})
    live.platform.answer = lambda _: Reply({"results": list(results), **more})
    return live


@pytest.mark.parametrize(
    ("day", "number"), [("2026-01-15", 49), ("2026-01-15", 0), ("2026-03-29", 47), ("2026-10-25", 51)]
)
async def test_a_period_that_the_day_does_not_have(day: str, number: int) -> None:
    live = _always({"date": day, "settlement_period": number, "system_price": 1.0, "niv": 1.0})
    with pytest.raises(UnexpectedReplyError, match=f"modo: settlement period {number} is outside"):
        await fetched(live, NOON, NOON + HALF_HOUR)


async def test_changed_fields() -> None:
    live = _always({"date": "2026-01-15", "settlement_period": 25, "price": 1.0})
    with pytest.raises(UnexpectedReplyError, match="system-price-live: system_price: Field required"):
        await fetched(live, NOON, NOON + HALF_HOUR)
    live.platform.answer = lambda _: Reply([])
    with pytest.raises(UnexpectedReplyError, match="without a list `results`"):
        await fetched(live, NOON, NOON + HALF_HOUR)


async def test_of_two_rows_for_a_period_the_newer_counts() -> None:
    row = {"date": "2026-01-15", "settlement_period": 25}
    live = _always({**row, "system_price": 2.0, "niv": 2.0}, {**row, "system_price": 1.0, "niv": 1.0})
    values = await fetched(live, NOON, NOON + HALF_HOUR)
    assert sorted(value.value for value in values) == [2.0, 4.0]


async def test_the_token_goes_to_nobody_else() -> None:
    live = _always(next="http://elsewhere.example/page2")
    with pytest.raises(UnexpectedReplyError, match="continues at another address"):
        await fetched(live, NOON, NOON + HALF_HOUR)


async def test_a_wrong_token_is_told_and_not_shown() -> None:
    with pytest.raises(RefusedError, match="modo does not accept our credentials") as caught:
        await fetched(Live({}, {}), NOON, NOON + HALF_HOUR, token="hunter2")
    assert "hunter2" not in str(caught.value)
