"""How devices are doing, and what somebody should know, over HTTP."""

from typing import Annotated, Any

from pydantic import Field

from flux import registry
from flux.api.typed.operation import Caller, End, Instant, Name, OfSite, Row, Start, operation
from flux.api.typed.spans import span
from flux.registry.alerts import Alert
from flux.store import health as store
from flux.store.health import DeviceHealth, Uptime

_TAG = "Health"
_YEAR_DAYS = 366


@operation("GET", "/v1/health", tag=_TAG)
async def health_overview(caller: Caller, site: OfSite = None) -> list[DeviceHealth]:
    """How every device is doing by its newest record, by name."""
    return await store.health_overview(caller.conn, site=site)


@operation("GET", "/v1/devices/{name}/health", tag=_TAG, errors=(404,))
async def device_health(caller: Caller, name: Name, start: Start = None, end: End = None) -> list[Row]:
    """A device's records with start ≤ timestamp < end, oldest first."""
    device = await registry.get_device(caller.conn, name)
    return await store.health_history(caller.conn, device.id, *span(start, end, caller.now, _YEAR_DAYS))


@operation("GET", "/v1/uptime", tag=_TAG, errors=(404,))
async def uptime(
    caller: Caller,
    device: Annotated[Name | None, Field(description="Only this one: name or id.")] = None,
    site: OfSite = None,
    start: Start = None,
    end: End = None,
) -> list[Uptime]:
    """Hours online, degraded, offline and unknown of each device in [start, end), by name."""
    one = None if device is None else (await registry.get_device(caller.conn, device)).id
    ids = [found.id for found in await registry.list_devices(caller.conn, site=site) if one in (None, found.id)]
    return await store.uptime(caller.conn, *span(start, end, caller.now, _YEAR_DAYS), ids)


@operation("GET", "/v1/alerts", tag=_TAG)
async def list_alerts(
    caller: Caller,
    site: OfSite = None,
    since: Annotated[Instant | None, Field(description="Those over as well, that began or ended after it.")] = None,
) -> list[Alert]:
    """The open alerts, newest first."""
    if caller.local:  # the platform's worker does it every minute; on a database without one, now
        await registry.refresh_alerts(caller.conn, caller.now)
    return await registry.list_alerts(caller.conn, site=site, since=since)


OPERATIONS: tuple[Any, ...] = (health_overview, device_health, uptime, list_alerts)
