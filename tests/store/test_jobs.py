"""Jobs in a real database: ordered, taken once, answered, given up."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncConnection

from flux.errors import ConflictError, InputError, NotFoundError, RefusedError
from flux.model import DeviceType, Job, JobKind, JobState
from flux.registry import NewDevice, add_device
from flux.store import ownership
from flux.store.db import connect
from flux.store.jobs import HELD_FOR, OrderKey, cancel_job, create_job, finish_job, get_job, list_jobs, take_job
from flux.store.lifecycle import run_retention, set_retention

BESS = "WLCE-BESS-01"


def soon(**by: float) -> datetime:
    return datetime.now(UTC) + timedelta(**(by or {"minutes": 1}))


@pytest.fixture
async def site(db: AsyncConnection[Any]) -> str:
    for name, kind in ((BESS, DeviceType.BESS), ("WLCE-GRID-METER", DeviceType.METER)):
        await add_device(db, NewDevice(name=name, type=kind, site="WLCE", metadata={}), actor="test")
    await add_device(db, NewDevice(name="HMCE-BESS-01", type=DeviceType.BESS, site="HMCE", metadata={}), actor="test")
    return "WLCE"


async def order(db: AsyncConnection[Any], kind: JobKind = JobKind.TEST, **args: Any) -> Job:
    defaults: dict[JobKind, dict[str, Any]] = {
        JobKind.TEST: {"device": BESS},
        JobKind.SCAN: {"ranges": ["192.168.1.0/30"]},
        JobKind.SET_POINT: {"device": BESS, "power_kw": 20, "until": soon(minutes=15).isoformat()},
        JobKind.STOP: {},
    }
    return await create_job(db, "WLCE", kind, defaults[kind] | args, expires_at=soon(), actor="anna")


async def test_an_order_that_is_sent_again_is_one_job(db: AsyncConnection[Any], dsn: str, site: str) -> None:
    async def ordered(conn: AsyncConnection[Any], power_kw: float, actor: str = "anna") -> Job:
        args = {"device": BESS, "power_kw": power_kw, "until": soon(minutes=5).isoformat()}
        order = OrderKey.of("mine", {"power_kw": power_kw})
        return await create_job(conn, site, JobKind.SET_POINT, args, expires_at=soon(), actor=actor, order=order)

    async with await connect(dsn, autocommit=True) as other:
        first, second = await asyncio.gather(ordered(db, 20), ordered(other, 20))
    assert first == second
    assert await take(db) is not None
    assert await finish_job(db, first.id, site=site, holder="a", run="1", result={})
    assert (await ordered(db, 20)).state is JobState.DONE, "it is over, and not begun again"
    with pytest.raises(ConflictError, match=f"the order 'mine' was another one: job {first.id}"):
        await ordered(db, 30)
    assert (await ordered(db, 30, actor="ben")).id != first.id
    assert len(await list_jobs(db)) == 2


async def take(db: AsyncConnection[Any], holder: str = "a", run: str = "1", *have: Job) -> Job | None:
    return await take_job(db, "WLCE", holder=holder, run=run, have=[job.id for job in have])


async def age(db: AsyncConnection[Any], job: Job, column: str, by: timedelta) -> None:
    await db.execute(f"UPDATE flux.edge_jobs SET {column} = {column} - %s WHERE id = %s".encode(), (by, job.id))


async def test_a_job_is_taken_once_and_answered(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db)
    assert (job.state, job.created_by, job.args) == (JobState.WAITING, "anna", {"device": BESS})
    taken = await take(db)
    assert taken is not None
    assert (taken.id, taken.state, taken.taken_by) == (job.id, JobState.RUNNING, "a")
    assert await take(db, "a", "1", job) is None
    assert await take_job(db, "HMCE", holder="b", run="1") is None
    assert await finish_job(db, job.id, site=site, holder="a", run="1", result={"failure": None})
    assert not await finish_job(db, job.id, site=site, holder="a", run="1", error="late")
    done = await get_job(db, job.id)
    assert (done.state, done.result, done.error) == (JobState.DONE, {"failure": None}, None)
    assert await list_jobs(db, site) == [done]
    assert await list_jobs(db, "HMCE") == []


async def test_two_takers_never_get_the_same_job(db: AsyncConnection[Any], dsn: str, site: str) -> None:
    ordered = {(await order(db)).id for _ in range(6)}

    async def taker(number: int) -> list[Any]:
        async with await connect(dsn, autocommit=True) as conn:
            got: list[Job] = []
            while (
                job := await take_job(conn, site, holder=f"e{number}", run="1", have=[j.id for j in got])
            ) is not None:
                got.append(job)
            return [job.id for job in got]

    first, second = await asyncio.gather(taker(1), taker(2))
    assert set(first) | set(second) == ordered
    assert len(first) + len(second) == 6


async def test_an_answer_that_was_lost_is_given_again_to_the_same_run_only(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db, JobKind.SET_POINT)
    assert await take(db) is not None
    assert await take(db, "b") is None
    again = await take(db)  # it does not have it: the first answer never came
    assert again is not None
    assert again.id == job.id
    assert await take(db, "a", "1", job) is None


async def test_a_job_that_has_expired_is_never_run(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db)
    await age(db, job, "expires_at", timedelta(minutes=2))
    assert await take(db) is None
    assert (await get_job(db, job.id)).state is JobState.EXPIRED


@pytest.mark.parametrize(("kind", "again"), [(JobKind.SET_POINT, False), (JobKind.TEST, True), (JobKind.SCAN, True)])
async def test_an_edge_that_died_runs_again_only_what_does_no_harm_twice(
    db: AsyncConnection[Any], site: str, kind: JobKind, again: bool
) -> None:
    job = await order(db, kind)
    assert await take(db, "a", "1") is not None
    assert (await take(db, "a", "2") is not None) is again
    assert not await finish_job(db, job.id, site=site, holder="a", run="1", result={}), "the run before has it no more"
    found = await get_job(db, job.id)
    assert found.state is (JobState.RUNNING if again else JobState.FAILED)
    assert again or "ended before" in (found.error or "")


async def test_a_job_that_kills_its_edge_is_given_up(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db, JobKind.SCAN)
    runs = [await take(db, "a", str(number)) is not None for number in range(5)]
    assert runs == [True, True, True, False, False]
    assert (await get_job(db, job.id)).state is JobState.FAILED


async def test_an_edge_that_never_came_back_loses_its_job(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db)
    assert await take(db, "a") is not None
    await age(db, job, "taken_at", HELD_FOR)
    assert await take(db, "b") is not None


async def test_only_the_edge_that_has_the_lease_takes_jobs(db: AsyncConnection[Any], site: str) -> None:
    await order(db)
    await ownership.take_lease(db, site, holder="a", host="one", lasts=timedelta(minutes=5))
    assert await take(db, "b") is None
    assert await take(db, "a") is not None


async def test_a_stop_holds_whatever_becomes_of_its_job_and_goes_first(db: AsyncConnection[Any], site: str) -> None:
    await order(db)
    job = await order(db, JobKind.STOP, reason="smoke")
    stop = await ownership.stop_in_force(db, site)
    assert stop is not None
    assert (stop.actor, stop.reason) == ("anna", "smoke")
    first = await take(db)
    assert first is not None
    assert first.id == job.id


async def test_a_waiting_job_can_be_cancelled_and_a_running_one_not(db: AsyncConnection[Any], site: str) -> None:
    job = await order(db)
    cancelled = await cancel_job(db, job.id, actor="ben")
    assert (cancelled.state, cancelled.error) == (JobState.CANCELLED, "cancelled by ben")
    assert await take(db) is None
    running = await order(db)
    assert await take(db) is not None
    for one, state in ((running, "running"), (job, "cancelled")):
        with pytest.raises(RefusedError, match=f"is {state}"):
            await cancel_job(db, one.id, actor="ben")
    with pytest.raises(NotFoundError, match="there is no job"):
        await cancel_job(db, uuid4(), actor="ben")


async def test_a_set_point_expires_with_its_own_end(db: AsyncConnection[Any], site: str) -> None:
    until = soon(seconds=20)
    job = await order(db, JobKind.SET_POINT, until=until.isoformat())
    assert job.expires_at == until


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("dance", {}, "there is no job 'dance'; there is scan"),
        ("test", {}, "test: device: Field required"),
        ("test", {"device": BESS, "now": 1}, "test: now: Extra inputs"),
        ("scan", {"ranges": []}, "scan: ranges"),
        ("scan", {"ranges": ["192.168.1.1/24"]}, "the network is 192.168.1.0/24"),
        ("scan", {"ranges": ["10.0.0.1"], "units": "300"}, "300"),
        ("set_point", {"device": BESS, "power_kw": float("nan"), "until": "2099-01-01T00:00Z"}, "finite"),
        ("set_point", {"device": BESS, "power_kw": 5}, "a power needs until"),
        ("set_point", {"device": BESS, "power_kw": 5, "until": "2026-01-01T00:00"}, "timezone"),
        ("set_point", {"device": BESS, "power_kw": 5, "until": "2020-01-01T00:00Z"}, "must be ahead"),
        ("set_point", {"device": BESS, "power_kw": 5, "until": "2099-01-01T00:00Z"}, "at most 24 hours"),
        ("set_point", {"device": "WLCE-GRID-METER", "power_kw": None}, "is a meter"),
    ],
)
async def test_what_can_not_be_is_refused_when_it_is_ordered(
    db: AsyncConnection[Any], site: str, kind: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        await create_job(db, site, kind, args, expires_at=soon(), actor="anna")
    assert await list_jobs(db) == []


async def test_what_is_not_there_or_not_allowed_is_told(db: AsyncConnection[Any], site: str) -> None:
    with pytest.raises(NotFoundError, match="site WLCE has no device 'HMCE-BESS-01'"):
        await order(db, device="HMCE-BESS-01")
    with pytest.raises(NotFoundError, match="there is no site 'WLCF'"):
        await create_job(db, "WLCF", JobKind.STOP, {}, expires_at=soon(), actor="anna")
    with pytest.raises(RefusedError, match="not a private"):
        await order(db, JobKind.SCAN, ranges=["8.8.8.0/24"])
    for expires_at, message in ((soon(minutes=-1), "must be ahead"), (soon().replace(tzinfo=None), "needs its offset")):
        with pytest.raises(InputError, match=message):
            await create_job(db, site, JobKind.TEST, {"device": BESS}, expires_at=expires_at, actor="anna")


async def test_a_new_job_is_announced_to_its_site(db: AsyncConnection[Any], site: str) -> None:
    await db.execute("LISTEN flux_jobs")
    await order(db)
    heard = [one.payload async for one in db.notifies(timeout=5, stop_after=1)]
    assert heard == ["WLCE"]


async def test_jobs_are_kept_for_90_days(db: AsyncConnection[Any], site: str) -> None:
    old, young = await order(db), await order(db)
    for job, days in ((old, 91), (young, 89)):
        await age(db, job, "created_at", timedelta(days=days))
    assert (await run_retention(db)).rows == 1
    assert [job.id for job in await list_jobs(db)] == [young.id]
    await set_retention(db, "edge_jobs", "30 days")
    await run_retention(db)
    assert await list_jobs(db) == []
