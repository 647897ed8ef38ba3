"""From a network nobody knows to stored readings: scanned, registered, tested, polled, and read by another client."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from pyModbusTCP.client import ModbusClient
from tests.devices.fleet import NETWORK, fleet
from tests.support import fetch

from flux.devices.discovery import ScanOptions, scan, targets
from flux.edge.config import load_site_file
from flux.edge.runtime import EdgeRuntime
from flux.edge.sql_link import SqlLink
from flux.model import Device, MeterMetadata
from flux.registry import history, list_devices
from flux.registry.discovered import compare, known_templates, register

Conn = AsyncConnection[Any]
EXPECTED = {
    "WLCE-bess-1": "tesla_powerpack",
    "WLCE-bess-1-2": "powerpack_bess",
    "WLCE-meter-1": "acuvim2_standard",
    "WLCE-meter-2": "acuvim2_standard",
}
"""The four whose registers are a whole simulated site; the fleet has more, and worse."""


async def found_and_registered(db: Conn, port: int) -> list[Device]:
    found = await scan(targets([NETWORK]), ScanOptions((port,), (1, 2)), await known_templates(db))
    units = [unit for one in found for unit in one.units]
    return await register(db, await compare(db, units, "WLCE"), "WLCE", datetime.now(UTC), actor="test")


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(40):
        while not await holds():
            await asyncio.sleep(0.1)


async def test_a_fleet_is_commissioned_and_an_independent_client_agrees(db: Conn, dsn: str, tmp_path: Path) -> None:
    site_file = tmp_path / "site.yaml"
    site_file.write_text("site: WLCE\nrecording: {polling_interval: 1s}\n")
    async with fleet() as here:
        registered = await found_and_registered(db, here.port)
        known = {device.name: device.metadata.template_name for device in registered}
        assert known.items() >= EXPECTED.items()
        assert await found_and_registered(db, here.port) == []  # again is nothing

        async with EdgeRuntime(load_site_file(site_file), SqlLink("WLCE", lambda: dsn), tmp_path, platform=dsn):

            async def all_read() -> bool:
                query = """SELECT r.name FROM flux.mg_device_registry r WHERE r.state = 'active' AND (
                           EXISTS (SELECT FROM flux.mg_meter_readings m WHERE m.device_id = r.id)
                           OR EXISTS (SELECT FROM flux.mg_bess_readings b WHERE b.device_id = r.id))"""
                return {row[0] for row in await fetch(db, query)} >= EXPECTED.keys()

            await eventually(all_read)
        for device in await list_devices(db):
            if device.name in EXPECTED:
                assert [event.to_state for event in await history(db, device.id)][-2:] == ["testing", "active"]
                await asyncio.to_thread(agree, device, await newest(db, device))


async def newest(db: Conn, device: Device) -> dict[str, float]:
    query = f"SELECT to_jsonb(t) FROM flux.mg_{device.type}_readings t WHERE device_id = %s ORDER BY time DESC LIMIT 1"
    return dict((await fetch(db, query, (device.id,)))[0][0])


def agree(device: Device, stored: dict[str, float]) -> None:
    """What a client that shares no code with Flux reads by the manual's addresses is what Flux stored."""
    metadata = device.metadata
    assert metadata.host is not None
    client = ModbusClient(metadata.host, metadata.port, metadata.modbus_address, auto_open=True, timeout=5)
    try:
        if not isinstance(metadata, MeterMetadata):
            assert_battery(client, device, stored)
            return
        frequency, voltage = float32(client, 12288), float32(client, 12304)
        assert stored["frequency"] == pytest.approx(frequency, rel=1e-6)
        assert stored["voltage_line_average"] == pytest.approx(voltage * metadata.vt_ratio, rel=1e-6)
        power_kw = float32(client, 12322) * metadata.vt_ratio * metadata.ct_ratio / 1000
        assert stored["power_total_active"] == pytest.approx(power_kw, rel=1e-6)
        assert stored["energy_imported_active"] == pytest.approx(uint32(client, 16456) * 0.1, abs=1e-6)
    finally:
        client.close()


def assert_battery(client: ModbusClient, device: Device, stored: dict[str, float]) -> None:
    if device.metadata.template_name == "tesla_powerpack":  # capacity at 145, stored energy at 207, both in Wh
        assert stored["soe"] == pytest.approx(100 * uint32(client, 207) / uint32(client, 145), rel=1e-5)
        assert stored["available_inverter_blocks"] == words(client, 218)[0]
    else:
        assert stored["soe"] == pytest.approx(words(client, 2026)[0], rel=1e-5)
        assert stored["available_inverter_blocks"] == words(client, 2028)[0]


def words(client: ModbusClient, address: int, count: int = 1) -> list[int]:
    read = client.read_holding_registers(address, count)
    assert read is not None, f"{address}: {client.last_error_as_txt}"
    return list(read)


def float32(client: ModbusClient, address: int) -> float:
    value: float = struct.unpack(">f", struct.pack(">2H", *words(client, address, 2)))[0]
    return value


def uint32(client: ModbusClient, address: int) -> int:
    high, low = words(client, address, 2)
    return high << 16 | low
