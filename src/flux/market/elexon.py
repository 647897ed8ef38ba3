"""Elexon Insights: system prices, net imbalance volume and the market index price. Public, no key.

A row of period 3 with ``systemSellPrice`` 62.5 and ``netImbalanceVolume`` −20.5 (MWh, + short) becomes an imbalance
price of 62.5 £/MWh, an imbalance volume of −20.5 MWh and a NIV of −41 MW, known since its ``createdDateTime``.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flux.market.http import Manners, MarketHttp
from flux.market.source import Clock, UnexpectedReplyError, period_of
from flux.model import GB_TIMEZONE, MarketDataType, MarketValue, SettlementPeriod

BASE_URL = "https://data.elexon.co.uk/bmrs/api/v1"
MANNERS = Manners(calls=20, per_s=10.0)
_INDEX_PROVIDER = "APXMIDP"
_INDEX_SPAN = timedelta(days=7)  # the most that the endpoint takes at once
_SETTLED_AFTER = timedelta(days=3)
_KEEP_SETTLED_S = 3600.0
_SOURCE = "elexon"
RowT = TypeVar("RowT", bound=BaseModel)


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=False, allow_inf_nan=False)


class SystemPrice(_Row):
    """A row of ``/balancing/settlement/system-prices/{date}``; a null is a value that is not there."""

    settlementDate: date  # noqa: N815 - the platform's name
    settlementPeriod: int  # noqa: N815
    startTime: datetime  # noqa: N815
    createdDateTime: datetime | None = None  # noqa: N815
    systemSellPrice: float | None  # noqa: N815  £/MWh; equal to the buy price
    netImbalanceVolume: float | None  # noqa: N815  MWh, + short
    priceDerivationCode: str | None = None  # noqa: N815


class IndexPrice(_Row):
    """A row of ``/balancing/pricing/market-index``."""

    settlementDate: date  # noqa: N815
    settlementPeriod: int  # noqa: N815
    startTime: datetime  # noqa: N815
    dataProvider: str  # noqa: N815
    price: float | None
    volume: float | None


class Elexon:
    """A :class:`~flux.market.source.MarketSource`."""

    name = _SOURCE

    def __init__(self, http: MarketHttp, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    async def fetch(self, start: datetime, end: datetime) -> list[MarketValue]:
        """Types 3 (imbalance price), 5 (volume), 1 (NIV) and 2 (market index price)."""
        values: list[MarketValue] = []
        for day in _local_days(start, min(end, self._clock())):
            values += await self._system_prices(day)
        values += await self._index_prices(start, end)
        return [value for value in values if start <= value.time < end]

    async def _system_prices(self, day: date) -> list[MarketValue]:
        settled = self._clock() - datetime.combine(day, datetime.min.time(), UTC) > _SETTLED_AFTER
        reply = await self._http.get(
            f"balancing/settlement/system-prices/{day}", {"format": "json"}, keep_s=_KEEP_SETTLED_S if settled else 0.0
        )
        values: list[MarketValue] = []
        for row in _rows(reply, SystemPrice):
            if row.settlementDate != day:
                raise UnexpectedReplyError(f"elexon: asked for {day}, a row is of {row.settlementDate}")
            values += self._of(row)
        return values

    def _of(self, row: SystemPrice) -> Iterator[MarketValue]:
        period = _period(row)
        metadata = _about(period) | ({"derivation": row.priceDerivationCode} if row.priceDerivationCode else {})
        known_at = self._known_at(row, period)
        if row.systemSellPrice is not None:
            yield _value(MarketDataType.IMBALANCE_PRICE, period, row.systemSellPrice, metadata, known_at)
        if row.netImbalanceVolume is not None:
            volume = row.netImbalanceVolume
            yield _value(MarketDataType.IMBALANCE_VOLUME, period, volume, metadata, known_at)
            yield _value(MarketDataType.NIV, period, 2 * volume, metadata, known_at)

    def _known_at(self, row: SystemPrice, period: SettlementPeriod) -> datetime | None:
        """As stated, where that can be: not before the period has ended, nor after now. Else since it is stored."""
        if row.createdDateTime is None:
            return None
        created = _utc(row.createdDateTime)
        return created if period.end <= created <= self._clock() else None

    async def _index_prices(self, start: datetime, end: datetime) -> list[MarketValue]:
        values: list[MarketValue] = []
        while start < end:
            until = min(start + _INDEX_SPAN, end)
            reply = await self._http.get(
                "balancing/pricing/market-index",
                {"from": _instant(start), "to": _instant(until), "dataProviders": _INDEX_PROVIDER, "format": "json"},
            )
            for row in _rows(reply, IndexPrice):
                # a provider without trades reports 0 £/MWh for 0 MWh: that is no price
                if row.dataProvider == _INDEX_PROVIDER and row.price is not None and row.volume:
                    period = _period(row)
                    metadata = _about(period) | {"provider": row.dataProvider, "volume_mwh": row.volume}
                    values.append(_value(MarketDataType.WHOLESALE_PRICE, period, row.price, metadata, None))
            start = until
        return values


def _rows(reply: Any, model: type[RowT]) -> list[RowT]:
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list):
        raise UnexpectedReplyError("elexon: a reply without a list `data`")
    try:
        return [model.model_validate(row) for row in data]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UnexpectedReplyError(f"elexon: {model.__name__}.{where}: {first['msg']}") from None


def _period(row: SystemPrice | IndexPrice) -> SettlementPeriod:
    """By date and number; a start that does not fit to them means that we misread one of the two."""
    period = period_of(_SOURCE, row.settlementDate, row.settlementPeriod)
    if _utc(row.startTime) != period.start:
        stated = f"{period.day} period {period.number} with start {row.startTime}"
        raise UnexpectedReplyError(f"elexon: {stated}; it starts at {period.start}")
    return period


def _value(
    type: MarketDataType, period: SettlementPeriod, value: float, metadata: dict[str, Any], known_at: datetime | None
) -> MarketValue:
    return MarketValue(type=type, time=period.start, value=value, known_at=known_at, metadata=metadata)


def _about(period: SettlementPeriod) -> dict[str, Any]:
    return {"source": _SOURCE, "settlement_date": f"{period.day}", "settlement_period": period.number}


def _local_days(start: datetime, end: datetime) -> Iterator[date]:
    """The settlement days that start ≤ time < end touches."""
    day = start.astimezone(GB_TIMEZONE).date()
    last = (end - timedelta(microseconds=1)).astimezone(GB_TIMEZONE).date()
    while day <= last:
        yield day
        day += timedelta(days=1)


def _utc(instant: datetime) -> datetime:
    """The platform writes UTC, with or without saying so."""
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _instant(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
