"""Maintenance that is planned ahead, by a clock that is passed in."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import add_device

from flux.errors import InputError, NotFoundError
from flux.model import Device
from flux.registry import (
    cancel_window,
    end_maintenance,
    get_device,
    list_windows,
    overdue,
    plan_window,
    run_due_windows,
)
from flux.registry.maintenance import last_start

Conn = AsyncConnection[Any]
HOUR = timedelta(hours=1)
SUNDAY = datetime(2026, 1, 18, 2, tzinfo=UTC)


async def bess(db: Conn) -> Device:
    return await get_device(db, await add_device(db, "B", "bess"))


async def state(db: Conn) -> str:
    return (await get_device(db, "B")).state


async def test_a_recurring_window_begins_once_each_week_and_somebody_ends_it(db: Conn) -> None:
    device = await bess(db)
    await plan_window(db, device, every="sunday 02:00", lasts=2 * HOUR, reason="updates", actor="ada")
    assert await run_due_windows(db, SUNDAY - timedelta(seconds=1)) == 0
    assert await run_due_windows(db, SUNDAY) == 1
    assert await state(db) == "maintenance"
    assert await overdue(db, SUNDAY + 2 * HOUR) == []
    (late,) = await overdue(db, SUNDAY + 2 * HOUR + timedelta(seconds=1))
    assert (late.device, late.reason, late.planned_end) == ("B", "updates", SUNDAY + 2 * HOUR)
    assert await run_due_windows(db, SUNDAY + 3 * HOUR) == 0
    await end_maintenance(db, device.id, actor="ada")
    assert await run_due_windows(db, SUNDAY + HOUR) == 0  # ended early, it does not begin again
    assert await run_due_windows(db, SUNDAY + timedelta(days=7)) == 1


async def test_one_that_ends_itself_goes_to_testing(db: Conn) -> None:
    await plan_window(db, await bess(db), starts_at=SUNDAY, lasts=HOUR, reason="x", ends_itself=True, actor="ada")
    await run_due_windows(db, SUNDAY)
    assert await run_due_windows(db, SUNDAY + HOUR - timedelta(seconds=1)) == 0
    assert await state(db) == "maintenance"
    assert await run_due_windows(db, SUNDAY + HOUR) == 1
    assert await state(db) == "testing"
    assert await list_windows(db) == []


async def test_what_passed_while_nobody_looked_is_not_made_up_for(db: Conn) -> None:
    await plan_window(db, await bess(db), starts_at=SUNDAY, lasts=HOUR, reason="x", actor="ada")
    assert await run_due_windows(db, SUNDAY + HOUR) == 0
    assert await state(db) == "active"


async def test_maintenance_by_hand_is_not_ended_by_a_window(db: Conn) -> None:
    device = await bess(db)
    await plan_window(db, device, every="daily 02:00", lasts=HOUR, reason="x", ends_itself=True, actor="ada")
    await db.execute(
        """UPDATE flux.mg_device_registry SET active = false, metadata = '{"maintenance":
           {"started_at": "2026-01-18T01:00:00Z", "expected_duration": "30 minutes"}}'"""
    )
    assert await run_due_windows(db, SUNDAY) == 0
    assert await run_due_windows(db, SUNDAY + HOUR) == 0
    assert await state(db) == "maintenance"


async def test_one_that_cannot_be_read_does_not_hold_up_the_others(db: Conn) -> None:
    device = await bess(db)
    await db.execute(
        "INSERT INTO flux.maintenance_windows (device_id, every, duration) VALUES (%s, 'whenever', '1 hour')",
        (device.id,),
    )
    await plan_window(db, device, every="sun 02:00", lasts=HOUR, reason="x", actor="ada")
    assert await run_due_windows(db, SUNDAY) == 1


async def test_a_cancelled_window_does_not_begin(db: Conn) -> None:
    window = await plan_window(db, await bess(db), starts_at=SUNDAY, lasts=HOUR, reason="x", actor="ada")
    with pytest.raises(NotFoundError):
        await cancel_window(db, "")
    await cancel_window(db, str(window))
    with pytest.raises(NotFoundError, match="no planned maintenance"):
        await cancel_window(db, str(window))
    assert await run_due_windows(db, SUNDAY) == 0


@pytest.mark.parametrize(
    ("every", "now", "start"),
    [
        ("daily 02:00", "2026-01-18T01:59:59Z", "2026-01-17T02:00Z"),
        ("mon,thu 02:00", "2026-01-18T12:00Z", "2026-01-15T02:00Z"),
        ("weekdays 23:30", "2026-01-18T12:00Z", "2026-01-16T23:30Z"),
        ("sunday 01:30", "2026-03-29T12:00Z", "2026-03-29T01:00Z"),  # the clocks skip 01:30
        ("sunday 01:30", "2026-10-25T12:00Z", "2026-10-25T00:30Z"),  # it comes twice, the first counts
        ("sunday 02:00", "2026-07-05T12:00Z", "2026-07-05T01:00Z"),
    ],
)
def test_the_newest_start(every: str, now: str, start: str) -> None:
    found = last_start(every, "Europe/London", datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(start)


@pytest.mark.parametrize("every", ["", "sunday", "funday 02:00", "sunday 25:00", "sunday 02:00 03:00", "sunday 2am"])
def test_what_is_no_time_of_the_week(every: str) -> None:
    with pytest.raises(InputError):
        last_start(every, "Europe/London", SUNDAY)
    with pytest.raises(InputError, match="unknown time zone"):
        last_start("sunday 02:00", "Europe/Londno", SUNDAY)
