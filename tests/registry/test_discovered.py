"""What a scan found against the registry: registered once, known again, also where it moved."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.devices.fleet import fleet, host
from tests.support import NOON, add_device, fetch
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.devices.client import ConnectionPool
from flux.devices.discovery import FoundUnit, RecognisedBy, ScanOptions, scan
from flux.devices.driver import driver_for
from flux.errors import InputError, RefusedError
from flux.model import DeviceType
from flux.registry import get_device
from flux.registry.discovered import Standing, compare, known_templates, readdress, register

TESLA = FoundUnit(
    host="10.0.0.11",
    port=502,
    unit=1,
    response_ms=3.0,
    recognised_by=RecognisedBy.IDENTIFICATION,
    manufacturer="Tesla",
    model="Powerpack",
    firmware_version="1.2",
    serial_number="TG-1",
    template="tesla_powerpack",
    type=DeviceType.BESS,
)
METER = FoundUnit(
    "10.0.0.12", 502, 2, 2.0, RecognisedBy.FINGERPRINT, template="acuvim2_standard", type=DeviceType.METER
)


async def standings(conn: AsyncConnection[Any], *units: FoundUnit) -> list[tuple[str, str | None]]:
    return [(str(one.standing), one.name) for one in await compare(conn, units, "WLCE")]


async def register_all(conn: AsyncConnection[Any], *units: FoundUnit) -> list[str]:
    added = await register(conn, await compare(conn, units, "WLCE"), "WLCE", NOON, actor="test")
    return [device.name for device in added]


async def test_registered_with_everything_that_was_read_and_polled_from_then_on(db: AsyncConnection[Any]) -> None:
    assert await register_all(db, TESLA, METER) == ["WLCE-bess-1", "WLCE-meter-2"]
    device = await get_device(db, "WLCE-bess-1")
    assert device.metadata.model_dump(exclude_none=True) == {
        "manufacturer": "Tesla",
        "model": "Powerpack",
        "serial_number": "TG-1",
        "firmware_version": "1.2",
        "host": "10.0.0.11",
        "ip_address": "10.0.0.11",
        "port": 502,
        "modbus_address": 1,
        "discovered_at": "2026-01-15T12:00:00+00:00",
        "template": "tesla_powerpack",
    }
    assert device.polled
    meter = await get_device(db, "WLCE-meter-2")
    assert meter.metadata.template_name == "acuvim2_standard"


async def test_again_it_registers_nothing(db: AsyncConnection[Any]) -> None:
    await register_all(db, TESLA, METER)
    assert await standings(db, TESLA, METER) == [("known", "WLCE-bess-1"), ("known", "WLCE-meter-2")]
    assert await register_all(db, TESLA, METER) == []
    assert await fetch(db, "SELECT count(*) FROM flux.mg_device_registry") == [(2,)]


async def test_names_that_are_taken(db: AsyncConnection[Any]) -> None:
    units = [replace(METER, host=f"10.0.{n}.12") for n in range(3)]
    assert await register_all(db, *units) == ["WLCE-meter-2", "WLCE-meter-2-12", "WLCE-meter-2-12-2"]


async def test_a_device_that_moved_is_offered_its_new_address_and_never_registered_twice(
    db: AsyncConnection[Any],
) -> None:
    await register_all(db, TESLA)
    moved = replace(TESLA, host="10.0.0.99", unit=3)
    assert await standings(db, moved) == [("moved", "WLCE-bess-1")]
    assert await register_all(db, moved) == []
    (device,) = await readdress(db, await compare(db, [moved], None), actor="test")
    assert (device.metadata.host, device.metadata.modbus_address) == ("10.0.0.99", 3)
    assert await standings(db, moved) == [("known", "WLCE-bess-1")]


async def test_another_serial_number_at_a_known_address_is_for_somebody_to_say(db: AsyncConnection[Any]) -> None:
    await register_all(db, TESLA)
    other = replace(TESLA, serial_number="TG-2")
    assert await standings(db, other) == [("replaced", "WLCE-bess-1")]
    assert await register_all(db, other) == []


async def test_registered_by_hand_it_is_known_by_its_address(db: AsyncConnection[Any]) -> None:
    await add_device(db, "GRID", metadata={"host": "10.0.0.12", "modbus_address": 2})
    assert await standings(db, METER) == [("known", "GRID")]
    assert await standings(db, replace(METER, port=1502)) == [("new", "WLCE-meter-2")]


async def test_the_same_serial_number_of_another_maker_is_another_device(db: AsyncConnection[Any]) -> None:
    await register_all(db, TESLA)
    other = replace(TESLA, host="10.0.0.50", manufacturer="Other")
    assert (await standings(db, other))[0][0] == Standing.NEW


async def test_what_is_not_known_is_not_registered(db: AsyncConnection[Any]) -> None:
    stranger = FoundUnit("10.0.0.13", 502, 1, 1.0)
    assert await standings(db, stranger) == [("unknown", None)]
    assert await register_all(db, stranger) == []


async def test_templates_of_the_registry_are_tried_too(db: AsyncConnection[Any]) -> None:
    body = "type: meter\nmanufacturer: X\nregisters: {frequency: 1}\nfingerprint: [{register: frequency, min: 1}]\n"
    await db.execute(
        "INSERT INTO flux.device_templates (name, hash, body) VALUES ('own', 'x', %s)", [f"name: own\n{body}"]
    )
    assert {"own", "tesla_powerpack"} <= {template.name for template in await known_templates(db)}


async def test_a_fleet_is_scanned_registered_and_polled(db: AsyncConnection[Any]) -> None:
    templates = {template.name: template for template in await known_templates(db)}
    async with fleet() as here, ConnectionPool() as pool:
        hosts = [host(number) for number in (1, 2, 3, 4, 6, 20)]
        ports = await scan(hosts, ScanOptions((here.port,), (1, 2)), list(templates.values()))
        found = await compare(db, [unit for port in ports for unit in port.units], "WLCE")
        devices = await register(db, found, "WLCE", NOON, actor="test")
        assert len(devices) == 6
        for device in devices:
            assert device.metadata.template_name is not None
            driver = driver_for(device, templates[device.metadata.template_name], pool, lambda: NOON)
            assert driver.reading(await driver.poll()) is not None, device.name


Run = Callable[..., Result]


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_the_command_where_nobody_listens(run: Run) -> None:
    told = run("devices", "scan", "127.0.80.0/24", "--port", "1")
    assert told.stdout == "254 addresses asked, 0 open: no device\n"
    assert json.loads(run("devices", "scan", "127.0.80.1", "--port", "1", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        (("10.0.0.0/16",), RefusedError, "65,536 addresses are more than 4,096"),
        (("8.8.8.0/24",), RefusedError, "not a private or loopback range"),
        (("10.0.0.1/24",), InputError, "the network is 10.0.0.0/24"),
        (("10.0.0.1", "--register"), InputError, "--register needs --site"),
        (("10.0.0.1", "--units", "0-256"), InputError, "units go from 0 to 255"),
        (("10.0.0.1", "--timeout", "soon"), InputError, "--timeout 'soon'"),
    ],
)
def test_what_the_command_refuses(arguments: tuple[str, ...], error: type[Exception], problem: str) -> None:
    """Before it asks a database or the network."""
    result = CliRunner().invoke(app, ["devices", "scan", *arguments])
    assert isinstance(result.exception, error)
    assert problem in str(result.exception)
