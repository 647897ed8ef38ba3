"""The link to a real platform, by SQL and by HTTPS: what it stores, what it hears, and how it comes back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from tests.edge.both import ADAPTERS, MOSTLY_SQL, links
from tests.edge.fakes import START, kept_decision

from flux.control.ledger import PlanText
from flux.edge.https_link import HttpsLink
from flux.edge.link import JobAnswer, LeaseAnswer, PlatformLink, PushResult
from flux.edge.sql_link import SqlLink
from flux.edge.ticks import system_clock
from flux.model import Device, DeviceId, DeviceState, DeviceType, MeterReading, NotFoundError, UnavailableError
from flux.registry import NewDevice, add_device, get_device
from flux.store import ownership
from flux.store.encoding import Recorded
from flux.store.jobs import create_job, get_job


@pytest.fixture(params=ADAPTERS)
async def link(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[PlatformLink]:
    with links(request.param, dsn) as make:
        one = make("WLCE")
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


async def test_a_batch_says_what_became_of_it(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    batch = [reading(meter), reading(meter, second=1), reading(meter, float("inf"), second=2)]
    assert await link.push(batch) == PushResult(stored=2, rejected=1)
    assert await link.push(batch[:2]) == PushResult(duplicates=2)
    rows = await (await db.execute("SELECT time FROM flux.mg_meter_readings ORDER BY time")).fetchall()
    assert [time for (time,) in rows] == [one.time for one in batch[:2]]


async def test_the_registry_is_that_of_the_site(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    await add_meter(db, "HMCE-GRID-METER", "HMCE")
    await db.execute("INSERT INTO flux.device_templates VALUES ('own_meter', 'x', 'type: meter'), ('other', 'x', 'y')")
    snapshot = await link.registry()
    assert [device.name for device in snapshot.devices] == ["WLCE-GRID-METER"]
    assert dict(snapshot.templates) == {"own_meter": "type: meter"}


async def test_a_change_is_heard_at_once(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    assert await link.wait_for_registry_change(1)  # whatever came before it listened
    await link.registry()
    assert not await link.wait_for_registry_change(0.05)
    waiting = asyncio.create_task(link.wait_for_registry_change(30))
    await asyncio.sleep(0.05)
    await db.execute("UPDATE flux.mg_device_registry SET active = false")
    async with asyncio.timeout(5):
        assert await waiting
    assert not (await link.registry()).devices[0].active


@pytest.mark.parametrize("link", MOSTLY_SQL, indirect=True)
async def test_a_first_poll_makes_a_device_active(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    assert meter.state is DeviceState.TESTING
    await link.report_state(DeviceId(meter.id), DeviceState.ACTIVE, "it answered a poll")
    assert (await get_device(db, meter.name)).state is DeviceState.ACTIVE
    with pytest.raises(NotFoundError):
        await link.report_state(DeviceId(UUID(int=7)), DeviceState.ACTIVE, "nobody")


@pytest.mark.parametrize("link", MOSTLY_SQL, indirect=True)
async def test_the_platforms_clock_is_utc(link: PlatformLink) -> None:
    assert abs((await link.platform_time() - system_clock()).total_seconds()) < 5


@pytest.mark.parametrize("link", ["sql"], indirect=True)
async def test_lost_connections_are_told_and_made_again(
    link: PlatformLink, db: AsyncConnection[Any], meter: Device
) -> None:
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


async def test_a_push_that_is_cancelled_leaves_a_usable_link(link: PlatformLink, meter: Device) -> None:
    for delay_s in (0.0, 0.001, 0.005):
        pushing = asyncio.create_task(link.push([reading(meter, second=n) for n in range(50)]))
        await asyncio.sleep(delay_s)
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    result = await link.push([reading(meter, second=n) for n in range(50)])
    assert result.stored + result.duplicates == 50


@pytest.mark.parametrize(
    "link",
    [
        SqlLink("WLCE", lambda: "postgresql://nobody:secret@127.0.0.1:1/flux"),
        HttpsLink("WLCE", "https://127.0.0.1:1", lambda: "secret"),
    ],
    ids=ADAPTERS,
)
async def test_a_server_that_is_not_there_is_unavailable(link: PlatformLink) -> None:
    with pytest.raises(UnavailableError) as caught:
        await link.push([])
    assert "secret" not in str(caught.value)
    with pytest.raises(UnavailableError):
        await link.registry()
    await link.close()


async def test_decisions_go_with_the_readings(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
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


@pytest.mark.parametrize("link", MOSTLY_SQL, indirect=True)
async def test_a_decision_of_nobody_holds_up_nothing(
    link: PlatformLink, db: AsyncConnection[Any], meter: Device
) -> None:
    bess = DeviceId((await add_battery(db)).id)
    batch: list[Recorded] = [kept_decision(1, DeviceId(UUID(int=9))), reading(meter), kept_decision(2, bess)]
    assert await link.push(batch) == PushResult(stored=2, rejected=1)


async def add_battery(db: AsyncConnection[Any]) -> Device:
    new = NewDevice(name="WLCE-BESS-01", type=DeviceType.BESS, site="WLCE", metadata={"host": "127.0.0.1"})
    return await add_device(db, new, actor="test")


@pytest.mark.parametrize("link", MOSTLY_SQL, indirect=True)
async def test_the_feed_comes_by_cursor(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    known = await link.control_feed(None, 0)
    assert known is not None
    assert await link.control_feed(known.cursor, 0.05) is None
    waiting = asyncio.create_task(link.control_feed(known.cursor, 30))
    await asyncio.sleep(0.05)
    await db.execute("UPDATE flux.sites SET import_limit_kw = 70 WHERE site = 'WLCE'")
    async with asyncio.timeout(5):
        feed = await waiting
    assert feed is not None
    assert feed.connection.import_kw == 70


@pytest.mark.parametrize("link", MOSTLY_SQL, indirect=True)
async def test_a_stop_is_in_the_snapshot_and_is_acknowledged(
    link: PlatformLink, db: AsyncConnection[Any], meter: Device
) -> None:
    await ownership.stop_site(db, "WLCE", actor="anna", reason="smoke")
    snapshot = await link.registry()
    assert snapshot.stop is not None
    assert (snapshot.stop.actor, snapshot.stop.reason) == ("anna", "smoke")
    await link.acknowledge_stop()
    stop = await ownership.stop_in_force(db, "WLCE")
    assert stop is not None
    assert stop.acknowledged_at is not None
    await ownership.resume_site(db, "WLCE", actor="anna")
    assert (await link.registry()).resumed_at is not None


async def test_the_lease_is_one_edges(link: PlatformLink, meter: Device) -> None:
    five_minutes = timedelta(minutes=5)
    assert await link.take_lease("a", "one", five_minutes) == LeaseAnswer(True, "a", "one", 1)
    assert await link.take_lease("b", "two", five_minutes) == LeaseAnswer(False, "a", "one", 1)
    await link.release_lease("a")
    assert await link.take_lease("b", "two", five_minutes) == LeaseAnswer(True, "b", "two", 2)


async def test_a_job_is_heard_at_once_and_answered(link: PlatformLink, db: AsyncConnection[Any], meter: Device) -> None:
    assert await link.take_job("a", "1", [], 0.05) is None
    waiting = asyncio.create_task(link.take_job("a", "1", [], 30))
    await asyncio.sleep(0.05)
    soon = system_clock() + timedelta(minutes=1)
    ordered = await create_job(db, "WLCE", "test", {"device": meter.name}, expires_at=soon, actor="anna")
    async with asyncio.timeout(5):
        job = await waiting
    assert job is not None
    assert (job.id, job.args) == (ordered.id, {"device": meter.name})
    assert await link.take_job("a", "1", [job.id], 0.05) is None
    assert await link.finish_job(job.id, "a", "1", JobAnswer(result={"failure": None}))
    assert not await link.finish_job(job.id, "a", "1", JobAnswer(error="again"))
    assert (await get_job(db, job.id)).result == {"failure": None}
