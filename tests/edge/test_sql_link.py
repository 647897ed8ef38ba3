"""The link to a real PostgreSQL: what it stores, what it hears, and how it comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from tests.edge.fakes import START, kept_decision

from flux.control.ledger import PlanText
from flux.edge.link import PushResult
from flux.edge.sql_link import SqlLink
from flux.edge.ticks import system_clock
from flux.model import Device, DeviceId, DeviceState, DeviceType, MeterReading, NotFoundError, UnavailableError
from flux.registry import NewDevice, add_device, get_device
from flux.store.encoding import Recorded


@pytest.fixture
async def link(dsn: str) -> AsyncIterator[SqlLink]:
    one = SqlLink("WLCE", lambda: dsn)
    yield one
    await one.close()


@pytest.fixture
async def meter(db: AsyncConnection[Any]) -> Device:
    return await add_meter(db, "WLCE-GRID-METER", "WLCE")


async def add_meter(db: AsyncConnection[Any], name: str, site: str) -> Device:
    metadata = {"host": "127.0.0.1", "register_map": "own_meter", "ct_ratio": 160}
    new = NewDevice(name=name, type=DeviceType.METER, site=site, metadata=metadata)
    return await add_device(db, new, actor="test")


def reading(device: Device, power_kw: float = 1.0, second: int = 0) -> MeterReading:
    time = START.replace(second=second, microsecond=123)
    return MeterReading(device_id=DeviceId(device.id), time=time, power_total_active=power_kw)


async def cut(db: AsyncConnection[Any]) -> None:
    """End every session of the link, as a restarted server does."""
    await db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name LIKE 'flux edge%' AND datname = current_database()"
    )


async def test_a_batch_says_what_became_of_it(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    batch = [reading(meter), reading(meter, second=1), reading(meter, float("inf"), second=2)]
    assert await link.push(batch) == PushResult(stored=2, rejected=1)
    assert await link.push(batch[:2]) == PushResult(duplicates=2)
    rows = await (await db.execute("SELECT time FROM flux.mg_meter_readings ORDER BY time")).fetchall()
    assert [time for (time,) in rows] == [one.time for one in batch[:2]]


async def test_the_registry_is_that_of_the_site(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    await add_meter(db, "HMCE-GRID-METER", "HMCE")
    await db.execute("INSERT INTO flux.device_templates VALUES ('own_meter', 'x', 'type: meter'), ('other', 'x', 'y')")
    snapshot = await link.registry()
    assert [device.name for device in snapshot.devices] == ["WLCE-GRID-METER"]
    assert dict(snapshot.templates) == {"own_meter": "type: meter"}


async def test_a_change_is_heard_at_once(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    assert await link.wait_for_registry_change(1)  # whatever came before it listened
    assert not await link.wait_for_registry_change(0.05)
    waiting = asyncio.create_task(link.wait_for_registry_change(30))
    await asyncio.sleep(0.05)
    await db.execute("UPDATE flux.mg_device_registry SET active = false")
    async with asyncio.timeout(5):
        assert await waiting


async def test_a_first_poll_makes_a_device_active(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    assert meter.state is DeviceState.TESTING
    await link.report_state(DeviceId(meter.id), DeviceState.ACTIVE, "it answered a poll")
    assert (await get_device(db, meter.name)).state is DeviceState.ACTIVE
    with pytest.raises(NotFoundError):
        await link.report_state(DeviceId(UUID(int=7)), DeviceState.ACTIVE, "nobody")


async def test_the_platforms_clock_is_utc(link: SqlLink) -> None:
    assert abs((await link.platform_time() - system_clock()).total_seconds()) < 5


async def test_lost_connections_are_told_and_made_again(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    await link.push([reading(meter)])
    await link.wait_for_registry_change(1)
    waiting = asyncio.create_task(link.wait_for_registry_change(30))
    await asyncio.sleep(0.05)
    await cut(db)
    with pytest.raises(UnavailableError, match="platform: "):
        await waiting
    with pytest.raises(UnavailableError, match="platform: "):
        await link.push([reading(meter, second=1)])
    assert await link.push([reading(meter, second=1)]) == PushResult(stored=1)
    assert await link.wait_for_registry_change(1)  # it listens again, and what happened meanwhile is asked for


async def test_a_push_that_is_cancelled_leaves_a_usable_link(link: SqlLink, meter: Device) -> None:
    for delay_s in (0.0, 0.001, 0.005):
        pushing = asyncio.create_task(link.push([reading(meter, second=n) for n in range(50)]))
        await asyncio.sleep(delay_s)
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    result = await link.push([reading(meter, second=n) for n in range(50)])
    assert result.stored + result.duplicates == 50


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    link = SqlLink("WLCE", lambda: "postgresql://nobody:secret@127.0.0.1:1/flux")
    with pytest.raises(UnavailableError) as caught:
        await link.push([])
    assert "secret" not in str(caught.value)
    with pytest.raises(UnavailableError):
        await link.wait_for_registry_change(1)


async def test_decisions_go_with_the_readings(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    bess = DeviceId((await add_battery(db)).id)
    plan = PlanText("5da279fb240a1993", '{"bess": ["WLCE-BESS-01"]}')
    batch: list[Recorded] = [
        plan,
        reading(meter),
        kept_decision(1, bess),
        reading(meter, second=1),
        kept_decision(1, bess, "calm"),
    ]
    assert await link.push(batch) == PushResult(stored=5)
    assert await link.push(batch) == PushResult(duplicates=5)
    rows = await (
        await db.execute("SELECT plan, target_power_kw, faults FROM flux.control_decisions ORDER BY plan")
    ).fetchall()
    assert rows == [(name, 40 + 1 / 7, ["WLCE-BESS-01 does not follow"]) for name in ("", "calm")]


async def test_a_decision_of_nobody_holds_up_nothing(link: SqlLink, db: AsyncConnection[Any], meter: Device) -> None:
    bess = DeviceId((await add_battery(db)).id)
    batch: list[Recorded] = [kept_decision(1, DeviceId(UUID(int=9))), reading(meter), kept_decision(2, bess)]
    assert await link.push(batch) == PushResult(stored=2, rejected=1)


async def add_battery(db: AsyncConnection[Any]) -> Device:
    new = NewDevice(name="WLCE-BESS-01", type=DeviceType.BESS, site="WLCE", metadata={"host": "127.0.0.1"})
    return await add_device(db, new, actor="test")
