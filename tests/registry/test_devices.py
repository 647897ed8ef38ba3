"""The registry on a real database."""

from typing import Any

import pytest
from psycopg import AsyncConnection

from flux.errors import ConflictError, InputError, NotFoundError, RefusedError
from flux.model import BessMetadata, DeviceState, DeviceType
from flux.registry import (
    add_device,
    doubts_about,
    get_device,
    history,
    list_devices,
    parse_new_device,
    set_metadata,
    set_state,
)

Connection = AsyncConnection[Any]

BESS = {
    "name": "WLCE-BESS-01",
    "type": "bess",
    "site": "WLCE",
    "metadata": {"capacity_kwh": 500, "template": "tesla_powerpack", "host": "127.0.0.1", "noted_by": "Ada"},
}


async def test_a_device_with_template_and_host_goes_to_testing_and_every_step_is_an_event(db: Connection) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="ada")
    assert (device.state, device.polled) == (DeviceState.TESTING, True)
    assert isinstance(device.metadata, BessMetadata)
    assert device.metadata.model_dump()["noted_by"] == "Ada"
    events = await history(db, device.id)
    assert [(e.from_state, e.to_state, e.actor) for e in events] == [
        (None, "registered", "ada"),
        ("registered", "configured", "ada"),
        ("configured", "testing", "ada"),
    ]


async def test_without_a_host_it_is_registered_and_not_polled(db: Connection) -> None:
    device = await add_device(db, parse_new_device({**BESS, "metadata": {}}), actor="ada")
    assert (device.state, device.polled) == (DeviceState.REGISTERED, False)


async def test_a_new_site_appears_by_itself(db: Connection) -> None:
    await add_device(db, parse_new_device(BESS), actor="ada")
    row = await (await db.execute("SELECT site, timezone FROM flux.sites")).fetchone()
    assert row == ("WLCE", "Europe/London")


async def test_a_name_taken_changes_nothing(db: Connection) -> None:
    await add_device(db, parse_new_device(BESS), actor="ada")
    with pytest.raises(ConflictError, match="WLCE-BESS-01"):
        await add_device(db, parse_new_device({**BESS, "site": "HMCE"}), actor="bob")
    assert [device.site for device in await list_devices(db)] == ["WLCE"]
    assert await (await db.execute("SELECT count(*) FROM flux.sites")).fetchone() == (1,)


async def test_a_name_of_a_decommissioned_device_is_free(db: Connection) -> None:
    first = await add_device(db, parse_new_device(BESS), actor="ada")
    await db.execute("UPDATE flux.mg_device_registry SET state = 'decommissioned'")
    second = await add_device(db, parse_new_device(BESS), actor="ada")
    assert first.id != second.id
    assert [d.id for d in await list_devices(db)] == [second.id]
    assert [d.id for d in await list_devices(db, state=DeviceState.DECOMMISSIONED)] == [first.id]


async def test_a_change_that_is_not_possible_is_refused_and_leaves_no_event(db: Connection) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="ada")
    before = await history(db, device.id)
    with pytest.raises(RefusedError, match="testing cannot become registered"):
        await set_state(db, device.id, DeviceState.REGISTERED, trigger="test", actor="ada")
    assert await history(db, device.id) == before


async def test_setting_the_state_it_has_is_no_event(db: Connection) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="ada")
    assert await set_state(db, device.id, DeviceState.ACTIVE, trigger="successful poll", actor="edge")
    assert not await set_state(db, device.id, DeviceState.ACTIVE, trigger="successful poll", actor="edge")
    assert len(await history(db, device.id)) == 4


async def test_an_unknown_name_is_met_with_the_nearest(db: Connection) -> None:
    await add_device(db, parse_new_device(BESS), actor="ada")
    with pytest.raises(NotFoundError, match=r"did you mean WLCE-BESS-01\?"):
        await get_device(db, "wlce-bess-1")


async def test_a_device_is_found_by_its_id(db: Connection) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="ada")
    assert (await get_device(db, str(device.id))).name == device.name


async def test_filters_narrow_the_list(db: Connection) -> None:
    await add_device(db, parse_new_device(BESS), actor="ada")
    meter = {"name": "HMCE-GRID", "type": "meter", "site": "HMCE", "metadata": {"meter_type": "grid"}}
    await add_device(db, parse_new_device(meter), actor="ada")
    assert [d.name for d in await list_devices(db, type=DeviceType.METER)] == ["HMCE-GRID"]
    assert [d.name for d in await list_devices(db, site="WLCE")] == ["WLCE-BESS-01"]
    assert [d.name for d in await list_devices(db, state=DeviceState.REGISTERED)] == ["HMCE-GRID"]


async def test_one_row_that_is_not_valid_does_not_hide_the_others(db: Connection) -> None:
    await add_device(db, parse_new_device(BESS), actor="ada")
    # no way in takes such a row; one that an older program wrote can be there
    await db.execute("ALTER TABLE flux.mg_device_registry DISABLE TRIGGER keep_lifecycle")
    await db.execute(
        "INSERT INTO flux.mg_device_registry (name, type, site, metadata)"
        " VALUES ('X', 'meter', 'WLCE', '{\"ct_ratio\": -1}')"
    )
    assert [d.name for d in await list_devices(db)] == ["WLCE-BESS-01"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "battery"}, "device type = 'battery'"),
        ({"name": ""}, "device name = ''"),
        ({"site": "no spaces"}, "device site = 'no spaces'"),
        ({"metadata": {"capacity_kwh": "lots"}}, "WLCE-BESS-01: metadata capacity_kwh = 'lots'"),
        ({"colour": "red"}, "device colour"),
    ],
)
def test_bad_input_names_the_field(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_new_device({**BESS, **change})
    assert expected in str(caught.value)


async def test_setting_metadata_keeps_the_other_keys_and_refuses_what_is_impossible(db: Connection) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="ada")
    changed = await set_metadata(db, device.id, {"port": 1502}, actor="bob")
    assert changed.metadata.model_dump()["noted_by"] == "Ada"
    assert changed.metadata.port == 1502
    with pytest.raises(InputError, match="efficiency = 2"):
        await set_metadata(db, device.id, {"efficiency": 2}, actor="bob")
    assert (await get_device(db, device.id)).metadata == changed.metadata


async def test_a_battery_is_not_read_as_a_meter() -> None:
    with pytest.raises(InputError, match="'acuvim2_standard' is of a meter, the device is a bess"):
        parse_new_device({**BESS, "metadata": {"template": "acuvim2_standard"}})


async def test_what_may_be_a_slip_is_doubted_and_kept(db: Connection) -> None:
    assert await doubts_about(db, parse_new_device(BESS)) == []
    metadata = {"template": "tesla_powerpak", "capacity_kw": 500, "noted_by": "Ada"}
    new = parse_new_device({**BESS, "metadata": metadata})
    assert await doubts_about(db, new) == [
        "metadata capacity_kw: no key that Flux uses, it is kept; did you mean capacity_kwh?",
        "template tesla_powerpak: not known here; did you mean tesla_powerpack? If not, the site's edge needs it in "
        "its templates_dir",
    ]
    await db.execute("INSERT INTO flux.device_templates (name, hash, body) VALUES ('tesla_powerpak', 'x', '{}')")
    assert len(await doubts_about(db, new)) == 1
