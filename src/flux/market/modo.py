"""Modo: the live estimates of system price (£/MWh) and net imbalance volume (MWh per half hour, + short).

``{"date": "2026-01-15", "settlement_period": 25, "niv": 60.5}`` becomes a NIV of 121 MW about 12:00 UTC of that day.
"""

from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flux.market.http import Manners, MarketHttp
from flux.market.source import UnexpectedReplyError, period_of
from flux.model import GB_TIMEZONE, MarketDataType, MarketValue

BASE_URL = "https://api.modoenergy.com"
MANNERS = Manners(calls=4, per_s=60.0, longest_retry_after_s=60.0)
_PATH = "pub/v1/gb/modo/markets"
_MOST_PAGES = 50
_SOURCE = "modo"


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    date: date
    settlement_period: int


class _PriceRow(_Row):
    system_price: float | None


class _NivRow(_Row):
    niv: float | None


RowT = TypeVar("RowT", bound=_Row)


class Modo:
    """A :class:`~flux.market.source.MarketSource`; ``token`` None: for what is free of a key."""

    name = _SOURCE

    def __init__(self, http: MarketHttp, token: str | None = None) -> None:
        self._http = http
        self._headers = {"X-Token": token} if token else {}

    async def fetch(self, start: datetime, end: datetime) -> list[MarketValue]:
        """Types 3 (imbalance price) and 1 (NIV), known since they are stored: the platform does not say since when.

        Asked by local day, from that of ``start``: just after midnight yesterday's last period is still had.
        """
        prices = [
            self._value(row, MarketDataType.IMBALANCE_PRICE, row.system_price)
            for row in await self._rows("system-price-live", _PriceRow, start, end)
        ]
        niv = [
            self._value(row, MarketDataType.NIV, None if row.niv is None else 2 * row.niv)
            for row in await self._rows("niv-live", _NivRow, start, end)
        ]
        newest_first: dict[tuple[int, datetime], MarketValue] = {}
        for value in (value for value in prices + niv if value is not None and start <= value.time < end):
            newest_first.setdefault((value.type, value.time), value)
        return list(newest_first.values())

    def _value(self, row: _Row, type: MarketDataType, value: float | None) -> MarketValue | None:
        period = period_of(_SOURCE, row.date, row.settlement_period)
        if value is None:
            return None
        metadata = {"source": _SOURCE, "settlement_date": f"{period.day}", "settlement_period": period.number}
        return MarketValue(type=type, time=period.start, value=value, metadata=metadata)

    async def _rows(self, endpoint: str, model: type[RowT], start: datetime, end: datetime) -> list[RowT]:
        """All rows of the local days of start … end, over as many pages as they fill."""
        days = [f"{instant.astimezone(GB_TIMEZONE):%Y-%m-%d}" for instant in (start, end - timedelta(microseconds=1))]
        path, params = f"{_PATH}/{endpoint}", {"date_from": days[0], "date_to": days[1]}
        rows: list[RowT] = []
        for _ in range(_MOST_PAGES):
            reply = await self._http.get(path, params, self._headers)
            rows += _parse(endpoint, reply, model)
            following = reply.get("next")
            if not following:
                return rows
            if not str(following).startswith(f"{self._http.base_url}/"):
                # the token goes to nobody else
                raise UnexpectedReplyError(f"modo: {endpoint} continues at another address")
            path, params = str(following), {}
        raise UnexpectedReplyError(f"modo: {endpoint} has more than {_MOST_PAGES} pages for {days[0]} … {days[1]}")


def _parse(endpoint: str, reply: Any, model: type[RowT]) -> list[RowT]:
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list):
        raise UnexpectedReplyError(f"modo: {endpoint} answers without a list `results`")
    try:
        return [model.model_validate(row) for row in results]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UnexpectedReplyError(f"modo: {endpoint}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
