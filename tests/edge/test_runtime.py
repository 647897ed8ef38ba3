"""The whole edge: real Modbus, real SQLite, real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.edge.both import MOSTLY_SQL, links
from tests.edge.conftest import PLAN
from tests.edge.plant import Plant, running_plant

from flux.devices.simulator import SimulatedSite
from flux.devices.template import builtin_template
from flux.edge.config import load_site_file
from flux.edge.runtime import EdgeRuntime
from flux.edge.site import Site, SiteDevice
from flux.edge.ticks import system_clock
from flux.model import ConflictError, DeviceState, DeviceType, InputError, UnavailableError
from flux.registry import NewDevice, add_device, get_device, list_devices


@pytest.fixture(params=MOSTLY_SQL)
async def plant(
    request: pytest.FixtureRequest,
    make_site: Callable[..., SimulatedSite],
    dsn: str,
    db: AsyncConnection[Any],
    tmp_path: Path,
) -> AsyncIterator[Plant]:
    site = make_site(load_kw=40, start=system_clock(), port=0)
    with links(request.param, dsn) as make:
        async with running_plant(site, dsn, db, tmp_path, make) as plant:
            yield plant


async def test_it_polls_controls_and_stores(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)

        async def enough() -> bool:
            return await plant.stored() >= 15 and edge.recorder.depth == 0

        await plant.until(enough)
        status = json.loads(edge.status_file.read_text())
    assert plant.battery_kw == pytest.approx(0, abs=0.1) or await settled(plant)
    devices = await list_devices(plant.db, site="WLCE")
    assert {device.state for device in devices} == {DeviceState.ACTIVE}
    per_device = await plant.rows(
        "SELECT d.name, count(*) FROM flux.mg_device_registry d JOIN"
        " (SELECT device_id FROM flux.mg_meter_readings UNION ALL SELECT device_id FROM flux.mg_bess_readings) r"
        " ON r.device_id = d.id GROUP BY d.name"
    )
    assert {name for name, _ in per_device} == {device.name for device in devices}
    sources = await plant.rows("SELECT DISTINCT command_source FROM flux.mg_bess_readings")
    assert (3,) in sources
    assert await plant.rows("SELECT * FROM flux.rejected_readings") == []
    assert status["controller"]["effective"] == "import_avoidance"
    assert status["alarms"] == []
    assert {row["name"] for row in status["devices"]} == {device.name for device in devices}


async def settled(plant: Plant) -> bool:
    await plant.until(lambda: abs(plant.battery_kw) < 0.1)
    return True


async def test_every_reading_comes_from_one_reply_of_its_device(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.until(lambda: edge.recorder.recorded >= 15)
    assert await plant.stored() == edge.recorder.recorded
    counters = await plant.rows(
        "SELECT count(*), count(DISTINCT (device_id, date_trunc('second', time))) FROM flux.mg_meter_readings"
    )
    assert counters[0][0] == counters[0][1]  # one in each second


async def test_the_platform_being_away_stops_neither_polling_nor_control(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        plant.link.away = True
        controller = edge.site.controller
        assert controller is not None
        cycles, before = controller.cycles, edge.recorder.recorded
        await plant.until(lambda: controller.cycles >= cycles + 10)
        await plant.until(lambda: edge.recorder.recorded >= before + 10)
        assert "platform_away" in [alarm.key for alarm in edge.alarms.active]
        plant.link.away = False
        await plant.until(lambda: edge.recorder.depth == 0, 20)
        assert edge.alarms.active == ()
    assert await plant.stored() == edge.recorder.recorded


async def test_it_starts_and_controls_from_what_it_learned(plant: Plant) -> None:
    async with plant.edge():
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
    await settled(plant)
    plant.link.away = True
    async with plant.edge() as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        await plant.until(lambda: edge.recorder.depth >= 5)
    plant.link.away = False
    async with plant.edge() as edge:
        await plant.until(lambda: edge.recorder.depth == 0)
    assert (await plant.rows("SELECT count(*) FROM flux.rejected_readings"))[0] == (0,)


async def test_maintenance_ends_control_and_polling_at_once(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        await plant.db.execute(
            "UPDATE flux.mg_device_registry SET active = false, state = 'maintenance' WHERE name = 'WLCE-BESS-01'"
        )
        await plant.until(lambda: abs(plant.battery_kw) < 0.1)
        controller = edge.site.controller
        assert controller is not None
        await plant.until(lambda: controller.last is not None and controller.last.target_power_kw is None)
        assert controller.last is not None
        assert controller.last.reason.startswith("WLCE-BESS-01 is in maintenance")
        reads = sum(reply.device == "WLCE-BESS-01" for reply in plant.replies)
        cycles = controller.cycles
        await plant.until(lambda: controller.cycles > cycles + 5)
        assert sum(reply.device == "WLCE-BESS-01" for reply in plant.replies) == reads
        await plant.db.execute("UPDATE flux.mg_device_registry SET active = true WHERE name = 'WLCE-BESS-01'")
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        device = await get_device(plant.db, "WLCE-BESS-01")
        await plant.until(lambda: edge.site.devices[device.id].device.state is DeviceState.ACTIVE)


async def test_the_health_of_each_device_reaches_the_platform(plant: Plant) -> None:
    async with plant.edge():

        async def known() -> bool:
            rows = await plant.rows("SELECT status FROM flux.device_health")
            return rows == [("online",)] * len(plant.server.devices)

        await plant.until(known)


MAINTENANCE = """UPDATE flux.mg_device_registry SET active = false, metadata = jsonb_set(metadata, '{maintenance}',
    '{"started_at": "2024-01-01T10:00:00Z", "reason": "Firmware upgrade", "expected_duration": "2 hours"}'::jsonb)
    WHERE name = 'WLCE-BESS-01'"""


async def test_maintenance_as_people_write_it_in_sql_ends_control_with_0_kw(plant: Plant) -> None:
    async with plant.edge():
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        await plant.db.execute(MAINTENANCE)
        await plant.until(lambda: abs(plant.battery_kw) < 0.1, within_s=5)
        query = (
            "SELECT to_state, reason FROM flux.device_events JOIN flux.mg_device_registry d ON d.id = device_id"
            " WHERE d.name = 'WLCE-BESS-01' ORDER BY device_events.id DESC LIMIT 1"
        )
        assert await plant.rows(query) == [("maintenance", "Firmware upgrade")]


@pytest.mark.parametrize("also", ["", ", name = 'WLCE-BESS-77'", ", metadata = metadata - 'template' - 'host'"])
async def test_a_battery_is_at_0_kw_before_its_polling_ends_whatever_else_changes(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, also: str
) -> None:
    acknowledged: list[float] = []
    stop_poller = Site._stop_poller

    async def watched(site: Site, one: SiteDevice) -> None:
        if one.device.type is DeviceType.BESS and site.controller is not None:
            command = site.controller.batteries[0].last_command
            acknowledged.append(command.power_kw if command is not None else float("nan"))
        await stop_poller(site, one)

    async with plant.edge():
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        monkeypatch.setattr(Site, "_stop_poller", watched)
        change = f"UPDATE flux.mg_device_registry SET active = false, state = 'maintenance'{also}"
        await plant.db.execute(change + " WHERE name = 'WLCE-BESS-01'")
        await plant.until(lambda: bool(acknowledged))
        monkeypatch.setattr(Site, "_stop_poller", stop_poller)
        await plant.until(lambda: abs(plant.battery_kw) < 0.1)
    assert acknowledged[0] == 0


async def test_an_edge_that_starts_and_stops_leaves_a_battery_in_maintenance_alone(plant: Plant) -> None:
    await plant.db.execute(
        "UPDATE flux.mg_device_registry SET active = false, state = 'maintenance' WHERE name = 'WLCE-BESS-01'"
    )
    async with plant.edge() as edge:
        await plant.until(lambda: edge.recorder.recorded >= 8)
    assert "WLCE-BESS-01" not in {reply.device for reply in plant.replies}
    await plant.db.execute("UPDATE flux.mg_device_registry SET active = true")
    async with plant.edge():
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)


async def test_two_meters_whose_names_were_swapped_are_both_polled_on(plant: Plant) -> None:
    swap = [("WLCE-LOAD-METER", "x"), ("WLCE-GENERATION-METER", "WLCE-LOAD-METER"), ("x", "WLCE-GENERATION-METER")]
    async with plant.edge() as edge:
        await plant.until(lambda: edge.recorder.recorded >= 5)
        async with plant.db.transaction():
            for old, new in swap:
                await plant.db.execute("UPDATE flux.mg_device_registry SET name = %s WHERE name = %s", (new, old))
        load = await get_device(plant.db, "WLCE-LOAD-METER")
        names = {device.id: device.name for device in edge.site.snapshot.devices} | {load.id: load.name}

        def polled_on() -> bool:
            """All five, the swapped ones under their new names; while they are swapped they are left and taken."""
            there = edge.site.devices
            return (
                there.keys() == names.keys()
                and there[load.id].device.name == load.name
                and all(one.poller is not None and one.poller.health.recorded >= 2 for one in there.values())
            )

        await plant.until(polled_on)
        assert edge.alarms.active == ()


async def test_the_alarm_of_a_device_goes_with_the_device(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.db.execute(
            'UPDATE flux.mg_device_registry SET metadata = metadata || \'{"register_map": "none such"}\''
            " WHERE name = 'WLCE-LOAD-METER'"
        )
        await plant.until(lambda: "device:WLCE-LOAD-METER" in {alarm.key for alarm in edge.alarms.active})
        await plant.db.execute(
            "UPDATE flux.mg_device_registry SET state = 'decommissioned' WHERE name = 'WLCE-LOAD-METER'"
        )
        await plant.until(lambda: edge.alarms.active == ())


async def test_a_meter_that_is_decommissioned_makes_the_controller_rest(plant: Plant) -> None:
    async with plant.edge() as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        await plant.db.execute(
            "UPDATE flux.mg_device_registry SET state = 'decommissioned' WHERE name = 'WLCE-GRID-METER'"
        )
        await plant.until(lambda: abs(plant.battery_kw) < 0.1)
        alarms = {alarm.key: alarm.text for alarm in edge.alarms.active}
        assert alarms["plan"].startswith("site_meter: 'WLCE-GRID-METER' is no device of site WLCE")


async def test_a_restarted_modbus_server_is_found_again(plant: Plant) -> None:
    async with plant.edge():
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
        await plant.server.stop()
        await plant.server.start()
        plant.server.site.restart_device("WLCE-BESS-01")
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1, 20)


async def test_a_battery_that_is_gone_does_not_hold_up_the_end(plant: Plant) -> None:
    edge = plant.edge()
    await edge.start()
    await plant.until(lambda: abs(plant.battery_kw - 40) < 0.1)
    await plant.server.stop()
    async with asyncio.timeout(12):
        await edge.stop()
    assert await plant.stored() == edge.recorder.recorded
    assert json.loads(edge.status_file.read_text())["running"] is False
    await plant.server.start()


async def test_devices_come_and_change_while_it_runs(plant: Plant) -> None:
    async with plant.edge() as edge:
        load = await get_device(plant.db, "WLCE-LOAD-METER")
        before = edge.site.devices[load.id].driver
        metadata = {**load.metadata.model_dump(mode="json", exclude_none=True), "host": None, "register_map": "mine"}
        new = NewDevice(name="WLCE-LOAD-METER-2", type=DeviceType.METER, site="WLCE", metadata=metadata)
        added = await add_device(plant.db, new, actor="test")
        for step in ("configured", "testing"):
            await plant.db.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (step, added.id))
        key = "device:WLCE-LOAD-METER-2"
        await plant.until(lambda: key in {alarm.key for alarm in edge.alarms.active})  # no such template

        body = builtin_template("acuvim2_standard").model_dump_json(exclude={"name"})
        await plant.db.execute("INSERT INTO flux.device_templates VALUES ('mine', 'x', %s)", (body,))
        host = '{"host": "127.0.0.1"}'
        await plant.db.execute(
            "UPDATE flux.mg_device_registry SET metadata = metadata || %s WHERE id = %s", (host, added.id)
        )
        await plant.until(lambda: added.id in edge.site.devices and key not in {a.key for a in edge.alarms.active})

        async def recorded() -> bool:
            query = "SELECT 1 FROM flux.mg_meter_readings r JOIN flux.mg_device_registry d ON d.id = r.device_id"
            return bool(await plant.rows(f"{query} WHERE d.name = 'WLCE-LOAD-METER-2'"))

        await plant.until(recorded)
        assert edge.site.devices[load.id].driver is before  # nothing changed for the others


async def test_an_unknown_device_is_one_line_and_leaves_nothing_behind(plant: Plant) -> None:
    edge = plant.edge(PLAN.replace("site_meter: WLCE-GRID-METER", "site_meter: WLCE-GRID-METR"))
    with pytest.raises(InputError) as caught:
        await edge.start()
    assert str(caught.value) == (
        f"{plant.home}/site.yaml:5: controller.site_meter: 'WLCE-GRID-METR' is no device of site WLCE;"
        " did you mean 'WLCE-GRID-METER'?"
    )
    assert not (plant.home / "edge").exists()
    assert plant.replies == []


async def test_a_first_start_needs_the_platform(plant: Plant) -> None:
    plant.link.away = True
    with pytest.raises(UnavailableError, match="platform is away; nothing is known yet of the devices of site WLCE"):
        await plant.edge().start()
    assert not (plant.home / "edge").exists()


async def test_a_second_edge_of_the_site_is_refused_and_the_first_goes_on(plant: Plant) -> None:
    async with plant.edge() as first:
        second = EdgeRuntime(plant_file(plant), plant.link, plant.home / "other", platform=plant.dsn)
        with pytest.raises(ConflictError, match="site WLCE: an edge runs here already"):
            await second.start()
        recorded = first.recorder.recorded
        await plant.until(lambda: first.recorder.recorded > recorded)


def plant_file(plant: Plant) -> Any:
    return load_site_file(plant.home / "site.yaml")


async def test_a_battery_without_command_timeout_is_refused_unless_accepted(plant: Plant) -> None:
    await plant.db.execute(
        'UPDATE flux.mg_device_registry SET metadata = metadata || \'{"template": "powerpack_bess"}\''
        " WHERE name = 'WLCE-BESS-01'"
    )
    with pytest.raises(InputError, match=r"site.yaml:\d+: controller.bess\[0\]: .*no command timeout.*accepted"):
        await plant.edge().start()
