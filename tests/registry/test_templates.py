"""Giving templates to devices, and testing devices over real Modbus."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import add_device as device_in_state
from tests.support import fetch

from flux.devices.simulator import SimulatedSite, SimulatorServer, demo_site
from flux.devices.template import builtin_template
from flux.edge.ticks import system_clock
from flux.errors import ConflictError, InputError, NotFoundError, RefusedError
from flux.model import DeviceState
from flux.registry import (
    NewDevice,
    add_device,
    apply_template,
    changes_by,
    find_template,
    get_device,
    history,
    matching_devices,
    run_device_test,
    set_metadata,
    start_maintenance,
)
from flux.registry.templates import parse_filter

Conn = AsyncConnection[Any]

MINE = """
type: meter
manufacturer: AccuEnergy
registers:
  frequency: 0x4000
  energy_imported_active: 0x4048
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "my_meter.yaml"
    file.write_text(MINE)
    return str(file)


def rewrite(file: str, text: str) -> None:
    Path(file).write_text(text)


async def test_a_template_is_given_to_all_that_match_or_to_none(db: Conn, mine: str) -> None:
    for name in ("M1", "M2"):
        await device_in_state(db, name, metadata={"host": "127.0.0.1", "register_map": "acuvim2_standard"})
    await device_in_state(db, "M3", site="HMCE")
    devices = await matching_devices(db, "type=meter,site=WLCE")
    named = await find_template(db, mine)
    first, second = await changes_by(db, named, devices)
    assert first.lines[0] == "template acuvim2_standard → my_meter"
    assert "- voltage_line_average at " in "\n".join(first.lines)
    assert await fetch(db, "SELECT count(*) FROM flux.device_templates") == [(0,)]  # looking changes nothing

    await set_metadata(db, second.device.id, {"ct_ratio": 200}, actor="bob")
    with pytest.raises(ConflictError, match="M2: somebody changed it at"):
        await apply_template(db, named, devices, actor="ada")
    assert {d.metadata.template_name for d in await matching_devices(db, "site=WLCE")} == {"acuvim2_standard"}
    assert await fetch(db, "SELECT count(*) FROM flux.device_templates") == [(0,)]

    await apply_template(db, named, await matching_devices(db, "type=meter,site=WLCE"), actor="ada")
    assert {d.metadata.template_name for d in await matching_devices(db, "site=WLCE")} == {"my_meter"}
    query = "SELECT actor, changes FROM flux.device_changes WHERE device_id = %s ORDER BY id"
    assert await fetch(db, query, (first.device.id,)) == [("ada", {"register_map": ["acuvim2_standard", "my_meter"]})]
    again = await changes_by(db, await find_template(db, "my_meter"), await matching_devices(db, "site=WLCE"))
    assert [change.lines for change in again] == [(), ()]


async def test_changed_registers_are_shown_one_by_one_and_recorded(db: Conn, mine: str) -> None:
    device = await device_in_state(db, "M1", metadata={"host": "127.0.0.1"})
    await apply_template(db, await find_template(db, mine), await matching_devices(db, "name=M1"), actor="ada")
    rewrite(mine, MINE.replace("0x4048", "0x404A"))
    changed = await find_template(db, mine)
    devices = await matching_devices(db, "name=M1")
    ((lines),) = [change.lines for change in await changes_by(db, changed, devices)]
    assert lines == (f"~ energy_imported_active: address {0x4048} → {0x404A}",)
    await apply_template(db, changed, devices, actor="bob")
    query = "SELECT actor, changes FROM flux.device_changes WHERE device_id = %s ORDER BY id DESC LIMIT 1"
    ((actor, what),) = await fetch(db, query, (device,))
    assert (actor, list(what)) == ("bob", ["registers of my_meter"])


async def test_a_template_for_another_type_is_refused(db: Conn, mine: str) -> None:
    await device_in_state(db, "B1", "bess")
    with pytest.raises(InputError, match="template my_meter is for a meter, not for B1"):
        await changes_by(db, await find_template(db, mine), await matching_devices(db, "site=WLCE"))


async def test_templates_that_are_not_there(db: Conn, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no template 'nope'"):
        await find_template(db, "nope")
    with pytest.raises(InputError, match=r"nope.yaml: No such file"):
        await find_template(db, str(tmp_path / "nope.yaml"))


@pytest.mark.parametrize(
    "filter", ["", "type", "type=", "=bess", "type=bess,,site=X", "type=inverter", "a=1,a=2", "state=on"]
)
def test_a_filter_that_cannot_be_read(filter: str) -> None:
    with pytest.raises(InputError, match="filter"):
        parse_filter(filter)


async def test_filters_look_at_columns_and_metadata(db: Conn) -> None:
    await device_in_state(db, "M1", metadata={"ct_ratio": 200, "phases": 3, "invert": True, "hall": "B"})
    await device_in_state(db, "M2", state="registered")
    for wanted, names in {
        "ct_ratio=200": ["M1"],
        "invert=true,phases=3": ["M1"],
        "hall=B": ["M1"],
        "hall=A": [],
        "state=registered": ["M2"],
        "active=true": ["M1", "M2"],
    }.items():
        assert [device.name for device in await matching_devices(db, wanted)] == names, wanted


# ── the test of a device ───────────────────────────────────────────────────────────────────────────────────────────


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def site(db: Conn) -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(SimulatedSite(demo_site(port=0), now()), system_clock) as server:
        for device in server.devices:
            new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
            await add_device(db, new, actor="test")
        yield server


@pytest.mark.parametrize("state", ["testing", "failed", "active"])
async def test_a_device_that_answers_becomes_active(db: Conn, site: SimulatorServer, state: str) -> None:
    device = await get_device(db, "WLCE-GRID-METER")
    if state != "testing":
        await db.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (state, device.id))
    result = await run_device_test(db, await get_device(db, device.id), now, actor="ada")
    assert result.failure is None
    assert result.device.state is DeviceState.ACTIVE
    assert 49 < result.values["frequency"] < 51
    last = (await history(db, device.id))[-1]
    assert (last.to_state, last.actor) == ("active", "ada" if state != "active" else last.actor)


async def test_a_device_that_does_not_answer_has_failed_with_the_reason(db: Conn, site: SimulatorServer) -> None:
    device = await set_metadata(db, (await get_device(db, "WLCE-GRID-METER")).id, {"modbus_address": 77}, actor="ada")
    await db.execute("INSERT INTO flux.device_templates VALUES ('hasty', 'x', %s)", (hasty_acuvim(),))
    device = await set_metadata(db, device.id, {"register_map": "hasty"}, actor="ada")
    result = await run_device_test(db, device, now, actor="ada")
    assert result.device.state is DeviceState.FAILED
    assert result.failure is not None
    assert (await history(db, device.id))[-1].reason == result.failure


def hasty_acuvim() -> str:
    template = builtin_template("acuvim2_standard")
    config = template.default_config.model_dump(mode="json") | {"timeout": "200ms", "retry_count": 0}
    return template.model_copy(update={"default_config": config}).model_dump_json(exclude={"name"}, warnings=False)


async def test_what_cannot_be_tested(db: Conn) -> None:
    known = {"host": "127.0.0.1", "port": 1, "register_map": "acuvim2_standard"}
    bare = await get_device(db, await device_in_state(db, "BARE", state="registered"))
    with pytest.raises(InputError, match="BARE: its metadata names no register_map"):
        await run_device_test(db, bare, now, actor="ada")
    resting = await get_device(db, await device_in_state(db, "RESTING", metadata=known))
    await start_maintenance(db, resting.id, actor="ada", reason="x")
    with pytest.raises(RefusedError, match="RESTING is in state maintenance"):
        await run_device_test(db, await get_device(db, resting.id), now, actor="ada")
