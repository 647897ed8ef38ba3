"""Many hosts at once: an open port is asked for its units, one after another on one connection."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flux.devices.discovery.asking import Asking
from flux.devices.discovery.found import FoundPort, FoundUnit
from flux.devices.discovery.recognise import examine
from flux.devices.template import DeviceTemplate
from flux.devices.transport import BadReplyError, DeviceUnreachableError
from flux.errors import DeviceError


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """``timeout_s``: of a connection, and of each answer. ``at_once``: hosts that are asked at the same time."""

    ports: tuple[int, ...] = (502,)
    units: tuple[int, ...] = (1,)
    timeout_s: float = 1.0
    at_once: int = 256


async def scan(
    hosts: Sequence[str],
    options: ScanOptions,
    templates: Sequence[DeviceTemplate],
    progress: Callable[[int, int], None] = lambda _done, _found: None,
) -> list[FoundPort]:
    """Every open port among the hosts, in their order; a closed one is not told.

    ``progress`` is told how many addresses are done and how many units were found. Only requests that read are sent.
    """
    places = [(host, port) for host in hosts for port in options.ports]
    slots = asyncio.Semaphore(options.at_once)
    done = units = 0

    async def one(host: str, port: int) -> FoundPort | None:
        nonlocal done, units
        async with slots:
            found = await _port(host, port, options, templates)
        done += 1
        units += len(found.units) if found else 0
        progress(done, units)
        return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(host, port)) for host, port in places]
    return [found for task in tasks if (found := task.result()) is not None]


async def _port(host: str, port: int, options: ScanOptions, templates: Sequence[DeviceTemplate]) -> FoundPort | None:
    async with Asking(host, port, options.timeout_s) as asking:
        try:
            await asking.connect()
        except DeviceUnreachableError:
            return None
        units, error = await _ask_units(asking, options.units, templates)
    if units:
        return FoundPort(host, port, _merged(units))
    if error is None:
        return FoundPort(host, port, (), "open, but no unit that was asked answers Modbus")
    return FoundPort(host, port, (), _what_it_did(error))


async def _ask_units(
    asking: Asking, numbers: Sequence[int], templates: Sequence[DeviceTemplate]
) -> tuple[list[FoundUnit], DeviceError | None]:
    """The units that answer, and what ended the asking early."""
    units: list[FoundUnit] = []
    for number in numbers:
        try:
            try:
                found = await examine(asking, number, templates)
            except DeviceUnreachableError:  # once more: some take one connection at a time
                found = await examine(asking, number, templates)
        except DeviceError as error:
            return units, error
        if found is not None:
            units.append(found)
    return units, None


def _what_it_did(error: DeviceError) -> str:
    if isinstance(error, BadReplyError):
        return "open, but what it speaks is not Modbus"
    return "open, but it hangs up when it is asked"


def _merged(units: Sequence[FoundUnit]) -> tuple[FoundUnit, ...]:
    """One of each device: many answer to every unit number, which their serial number gives away."""
    same: dict[object, list[FoundUnit]] = defaultdict(list)
    for unit in units:
        same[(unit.manufacturer, unit.serial_number) if unit.serial_number else unit.unit].append(unit)
    return tuple(replace(first, also=tuple(other.unit for other in rest)) for first, *rest in same.values())
