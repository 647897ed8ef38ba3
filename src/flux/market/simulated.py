"""A market that is made up, for the demo: plausible half hours of one site, the same each time they are asked for.

Nothing in it is a forecast or a record of anything; every value says so in its metadata.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from math import exp

from flux.model import GB_TIMEZONE, SETTLEMENT_PERIOD, MarketDataType, MarketValue, SiteCode, period_start

SOURCE = "simulated"
_KNOWN_AFTER = timedelta(minutes=2)
_BASE_PRICE, _MORNING, _EVENING, _NIGHT = 78.0, 25.0, 60.0, -30.0
_PRICE_PER_MW = 0.22
_LARGEST_NIV_MW = 420.0


class SimulatedMarket:
    """Imbalance price and NIV of ``site`` alone, so that no other site acts on what is made up."""

    name = SOURCE

    def __init__(self, site: SiteCode) -> None:
        self._site = site

    async def fetch(self, start: datetime, end: datetime) -> list[MarketValue]:
        """Two values for each half hour that begins in [start, end), known from two minutes into it."""
        return self.values(start, end)

    def values(self, start: datetime, end: datetime) -> list[MarketValue]:
        """As :meth:`fetch`, at once."""
        found: list[MarketValue] = []
        sp_start = period_start(start)
        while sp_start < end:
            if sp_start >= start:
                price, niv_mw = price_and_niv(sp_start)
                pairs = ((MarketDataType.IMBALANCE_PRICE, price), (MarketDataType.NIV, niv_mw))
                found += [self._value(kind, sp_start, value) for kind, value in pairs]
            sp_start += SETTLEMENT_PERIOD
        return found

    def _value(self, kind: MarketDataType, sp_start: datetime, value: float) -> MarketValue:
        known_at, metadata = sp_start + _KNOWN_AFTER, {"source": SOURCE, "simulated": True}
        return MarketValue(type=kind, time=sp_start, value=value, site=self._site, known_at=known_at, metadata=metadata)


def price_and_niv(sp_start: datetime) -> tuple[float, float]:
    """£/MWh and MW (+ short) of the half hour from ``sp_start``: a daily shape, and a NIV that drifts."""
    drift = [_noise(sp_start - n * SETTLEMENT_PERIOD) for n in range(4)]
    niv_mw = round(_LARGEST_NIV_MW * (0.5 * drift[0] + 0.25 * drift[1] + 0.15 * drift[2] + 0.1 * drift[3]), 1)
    local = sp_start.astimezone(GB_TIMEZONE)
    hour = local.hour + local.minute / 60
    shape = _MORNING * _hump(hour, 8.0) + _EVENING * _hump(hour, 18.0) + _NIGHT * _hump(hour, 3.5)
    return round(_BASE_PRICE + shape + _PRICE_PER_MW * niv_mw, 2), niv_mw


def _hump(hour: float, middle: float) -> float:
    return exp(-(((hour - middle) / 1.7) ** 2))


def _noise(sp_start: datetime) -> float:
    """From −1 to 1, by the instant alone."""
    digest = sha256(sp_start.isoformat().encode()).digest()
    return int.from_bytes(digest[:4]) / 0xFFFFFFFF * 2 - 1
