"""The life of a device, by every way in: Python, plain SQL, and at random."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from tests.support import add_device as device_in_state
from tests.support import fetch

from flux.errors import ConflictError, InputError, RefusedError
from flux.model import DeviceState, DeviceType, parse_metadata
from flux.registry import (
    add_device,
    decommission,
    end_maintenance,
    get_device,
    history,
    parse_new_device,
    set_metadata,
    set_state,
    start_maintenance,
)

Conn = AsyncConnection[Any]

STATES = [str(state) for state in DeviceState]
ALLOWED = {
    ("registered", "configured"),
    ("configured", "testing"),
    ("testing", "active"),
    ("testing", "failed"),
    ("failed", "testing"),
    ("maintenance", "testing"),
    *((state, "maintenance") for state in STATES if state not in {"maintenance", "decommissioned"}),
    *((state, "decommissioned") for state in STATES if state != "decommissioned"),
}
"""The transitions that the issue of the registry lists; written down a second time on purpose."""

KNOWN = {"host": "127.0.0.1", "register_map": "acuvim2_standard"}


async def state_of(db: Conn, device_id: UUID) -> tuple[str, bool]:
    ((state, active),) = await fetch(
        db, "SELECT state, active FROM flux.mg_device_registry WHERE id = %s", (device_id,)
    )
    return state, active


async def steps(db: Conn, device_id: UUID) -> list[tuple[str | None, str, str]]:
    query = "SELECT from_state, to_state, trigger FROM flux.device_events WHERE device_id = %s ORDER BY id"
    return await fetch(db, query, (device_id,))


async def test_an_insert_as_people_write_it_does_what_the_command_does(db: Conn) -> None:
    device_id = UUID(int=7)
    await db.execute(
        """INSERT INTO flux.mg_device_registry (id, name, type, site, metadata, active)
           VALUES (%s, 'WLCE-METER-01', 'meter', 'WLCE', %s::jsonb, true)""",
        (device_id, Jsonb(KNOWN)),
    )
    assert await state_of(db, device_id) == ("testing", True)
    by_command = await add_device(
        db, parse_new_device({"name": "M2", "type": "meter", "site": "WLCE", "metadata": KNOWN}), actor="ada"
    )
    assert by_command.state == "testing"
    assert await steps(db, device_id) == await steps(db, by_command.id)
    assert [event.actor for event in await history(db, by_command.id)] == ["ada"] * 3


MAINTENANCE = """UPDATE flux.mg_device_registry SET active = false, metadata = jsonb_set(metadata, '{maintenance}',
    '{"started_at": "2024-01-01T10:00:00Z", "reason": "Firmware upgrade", "expected_duration": "2 hours"}'::jsonb)
    WHERE id = %s"""


async def test_maintenance_as_people_write_it(db: Conn) -> None:
    device = await device_in_state(db, "M", metadata=KNOWN)
    await db.execute(MAINTENANCE, (device,))
    assert await state_of(db, device) == ("maintenance", False)
    last = (await history(db, device))[-1]
    assert (last.from_state, last.to_state, last.reason) == ("active", "maintenance", "Firmware upgrade")
    ((end,),) = await fetch(db, "SELECT flux.maintenance_end(metadata) FROM flux.mg_device_registry")
    assert end == datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("way", ["active = true", "metadata = metadata - 'maintenance'", "state = 'testing'"])
async def test_every_way_out_of_maintenance_is_a_check(db: Conn, way: str) -> None:
    device = await device_in_state(db, "M", metadata=KNOWN)
    await db.execute(MAINTENANCE, (device,))
    await db.execute(f"UPDATE flux.mg_device_registry SET {way} WHERE id = %s", (device,))
    assert await state_of(db, device) == ("testing", True)
    assert "maintenance" not in (await get_device(db, device)).metadata.model_dump(exclude_none=True)
    # what is left of it does not put the device back when somebody takes its permission later
    await db.execute("UPDATE flux.mg_device_registry SET active = false WHERE id = %s", (device,))
    assert await state_of(db, device) == ("testing", False)


@pytest.mark.parametrize("duration", ["until Ada is back", "", "99999999999 years", 7])
async def test_a_duration_that_cannot_be_read_is_kept_and_has_no_end(db: Conn, duration: Any) -> None:
    device = await device_in_state(db, "M")
    note = {"started_at": "2024-01-01T10:00:00Z", "expected_duration": duration}
    await db.execute(
        "UPDATE flux.mg_device_registry SET active = false, metadata = %s WHERE id = %s",
        (Jsonb({"maintenance": note}), device),
    )
    query = "SELECT state, metadata -> 'maintenance', flux.maintenance_end(metadata) FROM flux.mg_device_registry"
    ((state, kept, end),) = await fetch(db, query)
    assert (state, kept) == ("maintenance", note)
    assert end is None or duration == 7  # "7" is seven seconds to PostgreSQL


async def test_a_device_is_configured_when_its_address_and_registers_are_known(db: Conn) -> None:
    device = await device_in_state(db, "M", state="registered", metadata={"host": "127.0.0.1"})
    assert await state_of(db, device) == ("registered", True)
    await set_metadata(db, device, {"register_map": "acuvim2_standard"}, actor="ada")
    assert await state_of(db, device) == ("testing", True)
    assert [step for step, *_ in await steps(db, device)] == [None, "registered", "configured"]


async def test_without_permission_it_waits_until_there_is_one(db: Conn) -> None:
    device = await device_in_state(db, "M", state="registered")
    await db.execute(
        "UPDATE flux.mg_device_registry SET active = false, metadata = %s WHERE id = %s", (Jsonb(KNOWN), device)
    )
    assert await state_of(db, device) == ("configured", False)
    await db.execute("UPDATE flux.mg_device_registry SET active = true WHERE id = %s", (device,))
    assert await state_of(db, device) == ("testing", True)


async def test_exactly_the_listed_changes_are_possible(db: Conn) -> None:
    for before, after in itertools.product(STATES, STATES):
        device = await device_in_state(db, f"{before} to {after}", state=before)
        if before == after:
            assert not await set_state(db, device, DeviceState(after), trigger="t", actor="ada")
        elif (before, after) in ALLOWED:
            assert await set_state(db, device, DeviceState(after), trigger="t", actor="ada", reason="why")
            last = (await history(db, device))[-1]
            assert (last.from_state, last.to_state) == (before, after)
            assert (last.trigger, last.actor, last.reason) == ("t", "ada", "why")
        else:
            with pytest.raises(RefusedError, match=r"a device that is"):
                await set_state(db, device, DeviceState(after), trigger="t", actor="ada")
            with pytest.raises(psycopg.errors.RestrictViolation):
                await db.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (after, device))
            assert (await state_of(db, device))[0] == before


async def test_no_device_begins_in_the_middle_of_its_life(db: Conn) -> None:
    insert = "INSERT INTO flux.mg_device_registry (name, type, site, state) VALUES ('M', 'meter', 'WLCE', %s)"
    for state in set(STATES) - {"registered"}:
        with pytest.raises(psycopg.errors.RestrictViolation, match="a new device is registered"):
            await db.execute(insert, (state,))


async def test_what_is_decommissioned_stays_so_and_frees_its_name(db: Conn) -> None:
    device = await device_in_state(db, "M", metadata=KNOWN)
    assert (await decommission(db, device, actor="ada", reason="replaced")).active is False
    for change in ("state = 'active'", "active = true", "name = 'N'", "site = 'HMCE'"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="stays so"):
            await db.execute(f"UPDATE flux.mg_device_registry SET {change} WHERE id = %s", (device,))
    with pytest.raises(RefusedError, match="it is decommissioned already"):
        await decommission(db, device, actor="ada", reason="again")
    with pytest.raises(RefusedError, match="it cannot go into maintenance, it is decommissioned"):
        await start_maintenance(db, device, actor="ada", reason="x")
    assert await device_in_state(db, "M") != device


async def test_the_type_of_a_device_stays(db: Conn) -> None:
    device = await device_in_state(db, "M")
    with pytest.raises(psycopg.errors.RestrictViolation, match="the id and type of a device stay"):
        await db.execute("UPDATE flux.mg_device_registry SET type = 'bess' WHERE id = %s", (device,))


async def test_nobody_writes_events_that_did_not_happen(db: Conn) -> None:
    device = await device_in_state(db, "M")
    with pytest.raises(psycopg.errors.RestrictViolation, match="written by changes of mg_device_registry alone"):
        await db.execute(
            "INSERT INTO flux.device_events (device_id, to_state, trigger) VALUES (%s, 'active', 'lie')", (device,)
        )


async def test_maintenance_with_a_planned_end(db: Conn) -> None:
    device = await device_in_state(db, "M", metadata=KNOWN)
    put = await start_maintenance(db, device, actor="ada", reason="Firmware upgrade", lasts=timedelta(hours=2))
    assert (put.state, put.active) == ("maintenance", False)
    assert put.metadata.maintenance["expected_duration"] == "2h"
    ((left,),) = await fetch(db, "SELECT flux.maintenance_end(metadata) - now() FROM flux.mg_device_registry")
    assert timedelta(minutes=119) < left < timedelta(hours=2)
    with pytest.raises(RefusedError, match="it cannot go into maintenance, it is maintenance"):
        await start_maintenance(db, device, actor="bob", reason="too")
    assert (await end_maintenance(db, device, actor="ada")).state == "testing"
    with pytest.raises(RefusedError, match="it is not in maintenance, it is testing"):
        await end_maintenance(db, device, actor="ada")


async def test_two_people_who_edit_one_device_do_not_overwrite_each_other(db: Conn) -> None:
    device = await device_in_state(db, "M", metadata=KNOWN)
    seen = (await get_device(db, device)).updated_at
    await set_metadata(db, device, {"ct_ratio": 200}, actor="ada", unchanged_since=seen)
    with pytest.raises(ConflictError, match="M: somebody changed it at"):
        await set_metadata(db, device, {"ct_ratio": 400}, actor="bob", unchanged_since=seen)
    assert (await get_device(db, device)).metadata.model_dump()["ct_ratio"] == 200


# ── metadata ───────────────────────────────────────────────────────────────────────────────────────────────────────

DURATIONS = [
    "4s",
    "1h30m",
    "2H",
    " 1 h 5 m ",
    "1 0m",
    "4s\n",
    "\u0664s",
    "99999999d" * 9,
    "999999999d",
    "1s" * 10,
    "1.5.5s",
]
WORDS = st.sampled_from(["", "x", "grid", "storage", *DURATIONS, "5", "0", "1e400", "acuvim2_standard"])
NUMBERS = st.one_of(st.integers(-3, 70_000), st.floats(-2, 1000, allow_nan=False).map(lambda number: round(number, 3)))
WIDTHS = st.dictionaries(st.just("energy_imported_active"), st.one_of(NUMBERS, WORDS, st.just(10**400)), max_size=1)
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.lists(st.integers(), max_size=1), WIDTHS)
KEYS = sorted(
    {*parse_metadata(DeviceType.BESS, {}).model_dump(), *parse_metadata(DeviceType.METER, {}).model_dump(), "note"}
)


def test_python_and_sql_refuse_the_same_metadata(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:

        @settings(max_examples=400, deadline=None)
        @given(
            kind=st.sampled_from(list(DeviceType)), metadata=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)
        )
        def agree(kind: DeviceType, metadata: dict[str, Any]) -> None:
            query = "SELECT flux.metadata_problem(%s, %s)"
            ((problem,),) = connection.execute(query, (kind, Jsonb(metadata))).fetchall()
            try:
                parse_metadata(kind, metadata)
                valid = True
            except InputError:
                valid = False
            assert (problem is None) == valid, (problem, metadata)

        agree()


async def test_metadata_that_cannot_be_is_refused_from_sql_in_words(db: Conn) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=r'M: metadata ct_ratio = "many": it must be a number'):
        await device_in_state(db, "M", metadata={"ct_ratio": "many"})
    await device_in_state(db, "M", metadata={"noted_by": ["Ada"], "ct_ratio": 200})


# ── at random, by all ways in ──────────────────────────────────────────────────────────────────────────────────────

WRITTEN = [
    "active = true",
    "active = false",
    "state = 'active', active = false",
    "metadata = metadata - 'maintenance'",
    "metadata = metadata - 'host'",
    "metadata = metadata || '{\"maintenance\": {}}'",
    'metadata = metadata || \'{"host": "h", "register_map": "r"}\'',
    'active = false, metadata = metadata || \'{"maintenance": {"reason": "x"}}\'',
    *(f"state = '{state}'" for state in STATES),
]
REQUEST = st.one_of(
    st.tuples(st.just("state"), st.sampled_from(STATES)),
    st.tuples(st.just("sql"), st.sampled_from(WRITTEN)),
    st.tuples(st.just("call"), st.sampled_from(["start", "end", "decommission", "configure"])),
)


async def ask(db: Conn, device: Any, request: tuple[str, str]) -> None:
    way, what = request
    if way == "state":
        await set_state(db, device, DeviceState(what), trigger="random", actor="chance")
    elif way == "sql":
        await db.execute(f"UPDATE flux.mg_device_registry SET {what} WHERE id = %s", (device,))
    elif what == "start":
        await start_maintenance(db, device, actor="chance", reason="random")
    elif what == "end":
        await end_maintenance(db, device, actor="chance")
    elif what == "decommission":
        await decommission(db, device, actor="chance", reason="random")
    else:
        await set_metadata(db, device, {"host": "h", "register_map": "r"}, actor="chance")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUEST, min_size=1, max_size=12))
async def test_no_request_by_any_way_leaves_the_lifecycle(db: Conn, requests: list[tuple[str, str]]) -> None:
    async with db.transaction(force_rollback=True):
        device = await device_in_state(db, "RANDOM", state="registered")
        for request in requests:
            before = await state_of(db, device)
            try:
                async with db.transaction():
                    await ask(db, device, request)
            except (RefusedError, psycopg.errors.RestrictViolation):
                assert await state_of(db, device) == before
        state, active = await state_of(db, device)
        walked = await steps(db, device)
        assert walked[0][:2] == (None, "registered")
        # every event goes on where the one before ended, along the listed ways, and ends where the device is now
        assert [(b, a) for b, a, _ in walked[1:] if (b, a) not in ALLOWED] == []
        assert all(first[1] == second[0] for first, second in itertools.pairwise(walked))
        assert walked[-1][1] == state == (await get_device(db, device)).state
        assert not (active and state in {"maintenance", "decommissioned"})
