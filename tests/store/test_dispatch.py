"""Schedules and envelopes in a real database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import fetch

from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.errors import InputError, NotFoundError
from flux.store.dispatch import (
    MANUAL,
    Replaced,
    add_envelope,
    clear_envelopes,
    envelopes_of,
    replace_schedule,
    schedule_of,
)

# the database judges by its own clock what has ended, so these are about its tomorrow
TOMORROW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def site(db: AsyncConnection[Any]) -> str:
    await db.execute("INSERT INTO flux.sites (site) VALUES ('WLCE')")
    return "WLCE"


def step(hour: int, action: str = "discharge_max", hours: int = 1) -> ScheduleStep:
    return ScheduleStep(TOMORROW + hour * HOUR, TOMORROW + (hour + hours) * HOUR, action)


async def held(db: AsyncConnection[Any], site: str) -> list[ScheduleStep]:
    return [stored.step for stored in await schedule_of(db, site)]


async def test_a_schedule_replaces_the_one_before_and_the_record_keeps_both(
    db: AsyncConnection[Any], site: str
) -> None:
    assert await replace_schedule(db, site, [step(1), step(2)], source="axle") == Replaced(added=2)
    later = [step(2), step(3, "avoid_import")]
    assert await replace_schedule(db, site, later, source="axle") == Replaced(added=1, withdrawn=1)
    assert await held(db, site) == later
    rows = await fetch(db, "SELECT withdrawn_at IS NULL FROM flux.dispatch_schedules ORDER BY starts_at")
    assert [holds for (holds,) in rows] == [False, True, True]


async def test_the_same_schedule_again_changes_nothing_not_even_when_it_was_received(
    db: AsyncConnection[Any], site: str
) -> None:
    await replace_schedule(db, site, [step(1), step(2)], source="axle")
    before = await fetch(db, "SELECT id, received_at, xmin::text FROM flux.dispatch_schedules ORDER BY id")
    assert await replace_schedule(db, site, [step(1), step(2), step(1)], source="axle") == Replaced()
    assert await fetch(db, "SELECT id, received_at, xmin::text FROM flux.dispatch_schedules ORDER BY id") == before


async def test_the_first_step_as_sent_stays_the_first(db: AsyncConnection[Any], site: str) -> None:
    long, short = step(1, "avoid_export", hours=4), step(2)
    await replace_schedule(db, site, [short, long], source="axle")
    assert await held(db, site) == [short, long]
    assert await replace_schedule(db, site, [long, short], source="axle") == Replaced()
    assert await held(db, site) == [long, short]


async def test_a_step_that_was_begun_and_sent_as_shorter_is_replaced_and_an_ended_one_stays(
    db: AsyncConnection[Any], site: str
) -> None:
    now = datetime.now(UTC)
    ended = ScheduleStep(now - 2 * HOUR, now - HOUR, "charge_max")
    await db.execute(
        "INSERT INTO flux.dispatch_schedules (site, source, position, starts_at, ends_at, action)"
        " VALUES ('WLCE', 'axle', 0, %s, %s, 'charge_max')",
        (ended.start, ended.end),
    )
    running = ScheduleStep(now - HOUR, now + HOUR, "charge_max")
    shorter = ScheduleStep(now - HOUR, now + HOUR / 2, "charge_max")
    await replace_schedule(db, site, [running], source="axle")
    assert await replace_schedule(db, site, [ended, shorter], source="axle") == Replaced(added=1, withdrawn=1)
    assert await held(db, site) == [shorter]
    rows = await fetch(db, "SELECT count(*) FROM flux.dispatch_schedules WHERE withdrawn_at IS NULL")
    assert rows == [(2,)]


async def test_what_was_typed_by_hand_comes_first_and_neither_source_touches_the_other(
    db: AsyncConnection[Any], site: str
) -> None:
    await replace_schedule(db, site, [step(1)], source="axle")
    await replace_schedule(db, site, [step(1, "charge_max")], source=MANUAL)
    assert [stored.source for stored in await schedule_of(db, site)] == [MANUAL, "axle"]
    await replace_schedule(db, site, [], source=MANUAL)
    assert await held(db, site) == [step(1)]


async def test_an_envelope_given_later_counts_first_and_all_can_be_cleared(db: AsyncConnection[Any], site: str) -> None:
    whole_day = Envelope(TOMORROW, TOMORROW + 24 * HOUR, SiteLimits(100.0))
    evening = Envelope(TOMORROW + 17 * HOUR, TOMORROW + 19 * HOUR, SiteLimits(50.0, 0.0))
    await add_envelope(db, site, whole_day)
    await add_envelope(db, site, evening)
    assert [stored.envelope for stored in await envelopes_of(db, site)] == [evening, whole_day]
    assert await clear_envelopes(db, site) == 2
    assert await envelopes_of(db, site) == []


async def test_what_cannot_be_is_refused(db: AsyncConnection[Any], site: str) -> None:
    with pytest.raises(NotFoundError, match="no site 'WLCF'; there is WLCE"):
        await replace_schedule(db, "WLCF", [], source="axle")
    with pytest.raises(InputError, match="must end after it starts"):
        await replace_schedule(db, site, [step(1, hours=0)], source="axle")
    naive = datetime(2026, 1, 15, 17)  # noqa: DTZ001 - the point of the test
    with pytest.raises(InputError, match="needs its offset"):
        await replace_schedule(db, site, [ScheduleStep(naive, TOMORROW, "charge_max")], source="axle")
    with pytest.raises(InputError, match="needs an import limit or an export limit"):
        await add_envelope(db, site, Envelope(TOMORROW, TOMORROW + HOUR, SiteLimits()))
    with pytest.raises(InputError, match="needs an import limit or an export limit"):
        await add_envelope(db, site, Envelope(TOMORROW, TOMORROW + HOUR, SiteLimits(float("nan"), 1.0)))


async def test_changes_are_announced_and_market_data_too(db: AsyncConnection[Any], site: str) -> None:
    await db.execute("LISTEN flux_control")
    await replace_schedule(db, site, [step(1)], source="axle")
    await add_envelope(db, site, Envelope(TOMORROW, TOMORROW + HOUR, SiteLimits(1.0)))
    await db.execute("UPDATE flux.sites SET export_limit_kw = 3")
    await db.execute("INSERT INTO flux.market_data (time, type, value) VALUES (now(), 3, 80)")
    heard = [one.payload async for one in db.notifies(timeout=5, stop_after=4)]
    assert heard == ["dispatch_schedules", "site_envelopes", "sites", "market_data"]
