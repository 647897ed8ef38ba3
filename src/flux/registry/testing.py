"""The test of a device: one poll by its template. What it says takes the device from testing to active or failed."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from flux.devices.client import ConnectionPool
from flux.devices.driver import DeviceDriver, driver_for
from flux.devices.template import DeviceTemplate
from flux.errors import DeviceError, RefusedError
from flux.model import Device, DeviceId, DeviceState
from flux.registry.devices import get_device
from flux.registry.lifecycle import set_state
from flux.registry.templates import template_of

_TESTED = frozenset({DeviceState.CONFIGURED, DeviceState.TESTING, DeviceState.FAILED})


@dataclass(frozen=True, slots=True)
class DeviceTest:
    """``values``: what was read, in engineering units, by register; ``problems``: what was implausible or refused.

    ``failure``: why it failed; None: it passed. ``device`` is as it is after the test.
    """

    device: Device
    template: DeviceTemplate
    failure: str | None
    response_time_ms: float | None
    values: dict[str, Any]
    problems: tuple[str, ...]


async def run_device_test(
    conn: AsyncConnection[Any], device: Device, clock: Callable[[], datetime], *, actor: str
) -> DeviceTest:
    """Poll ``device`` once; read-only. One that is configured, testing or failed becomes active, or failed.

    An active device is polled and keeps its state. RefusedError for one that is not configured, in maintenance or
    decommissioned; InputError and NotFoundError for a template or host that is missing.
    """
    if device.state in {DeviceState.MAINTENANCE, DeviceState.DECOMMISSIONED}:
        raise RefusedError(f"{device.name} is in state {device.state}: it is not polled")
    template = await template_of(conn, device)
    async with ConnectionPool() as pool:
        driver = driver_for(device, template, pool, clock)
        if device.state is DeviceState.REGISTERED:
            raise RefusedError(f"{device.name}: it is not configured yet")
        if device.state is not DeviceState.ACTIVE:
            await set_state(conn, DeviceId(device.id), DeviceState.TESTING, trigger="test", actor=actor)
        failure, response_time_ms, values, problems = await _poll(driver)
    if device.state in _TESTED:
        outcome = DeviceState.ACTIVE if failure is None else DeviceState.FAILED
        reason = f"it answered in {response_time_ms:.0f} ms" if failure is None else failure
        await set_state(conn, DeviceId(device.id), outcome, trigger="test", actor=actor, reason=reason)
    return DeviceTest(await get_device(conn, device.id), template, failure, response_time_ms, values, problems)


async def _poll(driver: DeviceDriver) -> tuple[str | None, float | None, dict[str, Any], tuple[str, ...]]:
    try:
        poll = await driver.poll()
    except DeviceError as error:
        return str(error), None, {}, ()
    failure = None
    if all(value is None for value in poll.values.values()):
        failure = f"{driver.device.name}: it answers, but nothing that it says is plausible: {'; '.join(poll.problems)}"
    return failure, poll.response_time_s * 1000, poll.values, poll.problems
