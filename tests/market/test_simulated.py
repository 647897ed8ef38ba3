"""The made-up market of the demo."""

from datetime import UTC, datetime, timedelta

from flux.market.simulated import SimulatedMarket, price_and_niv
from flux.model import SETTLEMENT_PERIOD, MarketDataType

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


async def test_each_half_hour_has_a_price_and_a_niv_of_one_site_and_says_that_it_is_made_up() -> None:
    values = await SimulatedMarket("WLCE").fetch(NOON + timedelta(minutes=1), NOON + timedelta(minutes=61))
    assert [(value.type, value.time) for value in values] == [
        (kind, NOON + n * SETTLEMENT_PERIOD)
        for n in (1, 2)
        for kind in (MarketDataType.IMBALANCE_PRICE, MarketDataType.NIV)
    ]
    assert {value.site for value in values} == {"WLCE"}
    assert {value.metadata["source"] for value in values} == {"simulated"}
    assert all(value.known_at == value.time + timedelta(minutes=2) for value in values)


def test_it_is_the_same_each_time_and_has_both_signs_and_an_evening() -> None:
    week = [NOON + n * SETTLEMENT_PERIOD for n in range(336)]
    assert [price_and_niv(one) for one in week] == [price_and_niv(one) for one in week]
    nivs = [price_and_niv(one)[1] for one in week]
    assert min(nivs) < -150
    assert max(nivs) > 150
    evening = [price_and_niv(one)[0] for one in week if one.hour in (17, 18)]
    night = [price_and_niv(one)[0] for one in week if one.hour in (2, 3)]
    assert sum(evening) / len(evening) > sum(night) / len(night) + 50
