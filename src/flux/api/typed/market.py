"""Market data over HTTP: types, what there is, values as they are known now or were known then."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from flux.api.typed.operation import Caller, End, Instant, OfSite, Row, Start, Text, operation
from flux.api.typed.spans import span
from flux.errors import InputError
from flux.model.durations import Duration
from flux.store import market

_TAG = "Market data"
_LONGEST_DAYS = 370


@dataclass(frozen=True, slots=True)
class MarketType:
    """A type of market data; ``holds``: how long a value is in force after its time, at most."""

    id: int
    name: str
    description: str
    unit: str
    holds: Duration


@dataclass(frozen=True, slots=True)
class Value:
    """One value in the unit of its type; ``site`` None: for all. ``known_at``: since when it was known."""

    type: int
    time: datetime
    value: float
    site: str | None
    known_at: datetime | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MarketValues:
    """Values of one type, by time."""

    type: MarketType
    values: list[Value]


@operation("GET", "/v1/market", tag=_TAG)
async def market_summary(caller: Caller) -> list[Row]:
    """What market data there is: types, how many values, from when to when."""
    return await market.summary(caller.conn)


@operation("GET", "/v1/market/types", tag=_TAG)
async def market_types(caller: Caller) -> list[MarketType]:
    """The types of market data."""
    return [_type(one) for one in await market.data_types(caller.conn)]


@operation("GET", "/v1/market/{type}/values", tag=_TAG, errors=(404,))
async def market_values(
    caller: Caller,
    type: Annotated[Text, Field(description="Name or number of the type.", examples=["imbalance_price"])],
    start: Start = None,
    end: End = None,
    as_of: Annotated[Instant | None, Field(description="As it was known then; default: the newest.")] = None,
    history: Annotated[bool, Field(description="Every value that was known, oldest first.")] = False,
    site: Annotated[OfSite, Field(description="With the site's own values, which go before those for all.")] = None,
) -> MarketValues:
    """Values about start ≤ time < end; of a settlement period the time is its start."""
    if history and as_of is not None:
        raise InputError("history or as_of, not both: history shows since when each value was known")
    since, until = span(start, end, caller.now, None if caller.local else _LONGEST_DAYS)
    kind = await market.data_type(caller.conn, type)
    if history:
        found = await market.market_history(caller.conn, kind.id, since, until, site=site)
    else:
        found = await market.market_values(caller.conn, [kind.id], since, until, as_of=as_of, site=site)
    values = [Value(one.type, one.time, one.value, one.site, one.known_at, dict(one.metadata)) for one in found]
    return MarketValues(_type(kind), values)


def _type(one: market.DataType) -> MarketType:
    return MarketType(one.id, one.name, one.description, one.unit, one.holds)


OPERATIONS: tuple[Any, ...] = (market_summary, market_types, market_values)
