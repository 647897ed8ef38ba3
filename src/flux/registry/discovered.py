"""What a scan found against what the registry has: new, known, moved; and registering what is new.

A device is the same one when its serial number is (and its maker, where both say who made them); without one, when
host, port and unit are. So a device that got another address is never registered a second time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from psycopg import AsyncConnection

from flux.devices.discovery import FoundUnit
from flux.devices.template import DeviceTemplate, builtin_templates, parse_template
from flux.model import Device, DeviceType
from flux.registry.devices import add_device, list_devices, parse_new_device, set_metadata


class Standing(StrEnum):
    """How a found unit stands to the registry."""

    NEW = "new"
    KNOWN = "known"
    MOVED = "moved"  # known by its serial number, registered with another address
    REPLACED = "replaced"  # at the address of a device whose serial number is another: somebody must say what is meant
    UNKNOWN = "unknown"  # speaks Modbus, but what it is cannot be told: it cannot be registered


@dataclass(frozen=True, slots=True)
class Discovery:
    """A found unit and, unless it is new, the name of its device. ``name`` of a new one: what it would be called."""

    unit: FoundUnit
    standing: Standing
    name: str | None


async def known_templates(conn: AsyncConnection[Any]) -> list[DeviceTemplate]:
    """Those that come with Flux, and those of the registry, which go before where they have the same name."""
    cursor = await conn.execute("SELECT name, body FROM flux.device_templates ORDER BY name")
    own = {name: parse_template(body, f"template {name}") for name, body in await cursor.fetchall()}
    return list((builtin_templates() | own).values())


async def compare(
    conn: AsyncConnection[Any], units: Sequence[FoundUnit], site: str | None, *, on_its_network: bool = False
) -> list[Discovery]:
    """How each stands to the devices that are not decommissioned; with a site, new ones get names of their own.

    ``on_its_network``: the units were found by the site's own edge. Then only devices of the site are meant by an
    address: other sites have networks of their own with the same addresses.
    """
    known = await list_devices(conn)
    taken = {device.name for device in known}
    devices = [device for device in known if not on_its_network or device.site == site]
    found = []
    for unit in units:
        standing, device = _standing(unit, devices)
        name = device.name if device else None
        if standing is Standing.NEW and site is not None and unit.type is not None:
            name = free_name(site, unit, taken)
            taken.add(name)
        found.append(Discovery(unit, standing, name))
    return found


async def register(
    conn: AsyncConnection[Any], found: Sequence[Discovery], site: str, now: datetime, *, actor: str
) -> list[Device]:
    """Add the new ones, as :func:`compare` named them; those that the registry has are left alone."""
    added = []
    for one in found:
        if one.standing is Standing.NEW and one.name is not None:
            data = {"name": one.name, "type": one.unit.type, "site": site, "metadata": metadata_of(one.unit, now)}
            added.append(await add_device(conn, parse_new_device(data), actor=actor))
    return added


async def readdress(conn: AsyncConnection[Any], found: Sequence[Discovery], *, actor: str) -> list[Device]:
    """Give the devices that moved the address where they were found."""
    names = {one.name: one.unit for one in found if one.standing is Standing.MOVED}
    return [
        await set_metadata(conn, device.id, _address_of(unit), actor=actor)
        for device in await list_devices(conn)
        if (unit := names.get(device.name)) is not None
    ]


def _standing(unit: FoundUnit, devices: Sequence[Device]) -> tuple[Standing, Device | None]:
    here = next((device for device in devices if _is_at(device, unit)), None)
    same = next((device for device in devices if _is_same(device, unit)), None)
    if same is not None:
        return (Standing.KNOWN if _is_at(same, unit) else Standing.MOVED), same
    if here is not None:
        serial = here.metadata.serial_number
        other = serial is not None and unit.serial_number is not None
        return (Standing.REPLACED if other else Standing.KNOWN), here
    return (Standing.NEW if unit.type is not None and unit.template is not None else Standing.UNKNOWN), None


def _is_at(device: Device, unit: FoundUnit) -> bool:
    metadata = device.metadata
    addresses = {metadata.host, (metadata.model_extra or {}).get("ip_address")}
    return unit.host in addresses and metadata.port == unit.port and metadata.modbus_address in (unit.unit, *unit.also)


def _is_same(device: Device, unit: FoundUnit) -> bool:
    metadata = device.metadata
    if unit.serial_number is None or metadata.serial_number != unit.serial_number:
        return False
    makers = {maker.casefold() for maker in (metadata.manufacturer, unit.manufacturer) if maker}
    return len(makers) < 2


def free_name(site: str, unit: FoundUnit, taken: Collection[str]) -> str:
    """``WLCE-meter-2``; where that is another device's, with the last part of its address, then with a counter."""
    name = f"{site}-{unit.type}-{unit.unit}"
    if name not in taken:
        return name
    last = f"{name}-{_last_part(unit.host)}"
    number, candidate = 1, last
    while candidate in taken:
        number += 1
        candidate = f"{last}-{number}"
    return candidate


def _last_part(host: str) -> str:
    address = ip_address(host)
    return str(address).rpartition("." if address.version == 4 else ":")[2] or "0"


def metadata_of(unit: FoundUnit, now: datetime) -> dict[str, Any]:
    """What a scan knows of a device, as the registry keeps it."""
    template = "register_map" if unit.type is DeviceType.METER else "template"
    known = {
        **_address_of(unit),
        "discovered_at": now.isoformat(timespec="seconds"),
        "manufacturer": unit.manufacturer,
        "model": unit.model,
        "firmware_version": unit.firmware_version,
        "serial_number": unit.serial_number,
        template: unit.template,
    }
    return {key: value for key, value in known.items() if value is not None}


def _address_of(unit: FoundUnit) -> dict[str, Any]:
    return {"host": unit.host, "ip_address": unit.host, "port": unit.port, "modbus_address": unit.unit}
