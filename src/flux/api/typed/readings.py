"""Readings and rollups over HTTP."""

from typing import Annotated, Any, Literal

from pydantic import Field

from flux import registry
from flux.api.typed.operation import Caller, End, Name, OfSite, Row, Start, operation
from flux.api.typed.spans import span
from flux.store import queries

_TAG = "Readings and rollups"
Level = Literal["5m", "30m", "1h"]
LONGEST_DAYS = {"5m": 32, "30m": 370, "1h": 3660}
MOST_ROWS = 10_000
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS, description="The newest so many.")]


@operation("GET", "/v1/readings/latest", tag=_TAG)
async def latest_readings(caller: Caller, site: OfSite = None) -> list[Row]:
    """The newest reading of each device, with its age in seconds."""
    return await queries.latest_readings(caller.conn, site=site)


@operation("GET", "/v1/devices/{name}/readings", tag=_TAG, errors=(404,))
async def device_readings(
    caller: Caller, name: Name, start: Start = None, end: End = None, limit: Limit = 1000
) -> list[Row]:
    """Readings with start ≤ time < end, newest last. Powers in kW, energy in kWh."""
    device = await registry.get_device(caller.conn, name)
    return await queries.readings(caller.conn, device, *span(start, end, caller.now, None), limit=limit)


@operation("GET", "/v1/devices/{name}/rollups/{level}", tag=_TAG, errors=(404,))
async def device_rollups(caller: Caller, name: Name, level: Level, start: Start = None, end: End = None) -> list[Row]:
    """Buckets with start ≤ time_b < end, oldest first; a counter's `…_delta` is what it counted in the bucket."""
    device = await registry.get_device(caller.conn, name)
    longest = None if caller.local else LONGEST_DAYS[level]
    return await queries.rollups(caller.conn, device, level, *span(start, end, caller.now, longest))


OPERATIONS: tuple[Any, ...] = (latest_readings, device_readings, device_rollups)
