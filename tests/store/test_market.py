"""Market data in the store: newest value and history, whatever order things arrive in."""

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from alembic import op
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch

from flux.errors import ConflictError, InputError, NotFoundError
from flux.model import MarketDataType, MarketValue
from flux.store import migrate as migrate_module
from flux.store.db import connect
from flux.store.market import UpsertResult, add_data_type, data_type, market_history, market_values, summary, upsert

Conn = AsyncConnection[Any]
PRICE = MarketDataType.IMBALANCE_PRICE
HISTORY = (
    "SELECT type, site, time, value, metadata, known_at, repeated_at FROM flux.market_data_history ORDER BY 1,2,3,6"
)
NEWEST = "SELECT type, site, time, value, metadata, known_at FROM flux.market_data ORDER BY 1,2,3"


def price(
    value: float, known_min: float | None = None, *, time: datetime = NOON, site: str | None = None, **metadata: Any
) -> MarketValue:
    """An imbalance price about ``time``, known so many minutes after noon (None: whenever it is stored)."""
    known_at = None if known_min is None else NOON + timedelta(minutes=known_min)
    return MarketValue(type=PRICE, time=time, value=value, site=site, known_at=known_at, metadata=metadata)


async def newest(db: Conn) -> list[float]:
    return [value.value for value in await market_values(db, None, NOON - timedelta(days=1), NOON + timedelta(days=1))]


async def as_of(db: Conn, minute: float, **named: Any) -> list[float]:
    day = timedelta(days=1)
    then = NOON + timedelta(minutes=minute)
    return [v.value for v in await market_values(db, [PRICE], NOON - day, NOON + day, as_of=then, **named)]


async def test_a_value_is_known_from_its_instant_on(db: Conn) -> None:
    await upsert(db, [price(50, 5), price(60, 10)])
    assert [await as_of(db, minute) for minute in (4.99, 5, 9.99, 10, 600)] == [[], [50], [50], [60], [60]]
    assert await newest(db) == [60]


async def test_an_older_value_that_arrives_later_does_not_hide_the_newer(db: Conn) -> None:
    await upsert(db, [price(60, 10)])
    await upsert(db, [price(50, 5)])
    assert await newest(db) == [60]
    assert await as_of(db, 7) == [50]


async def test_an_unchanged_value_adds_no_history(db: Conn) -> None:
    first = await upsert(db, [price(50, 5, confidence="low")])
    again = await upsert(db, [price(50, 8, confidence="low"), price(50, confidence="low"), price(50, confidence="low")])
    assert (first, again) == (UpsertResult(1, 1, 0), UpsertResult(3, 0, 0))
    surer = await upsert(db, [price(50, 9, confidence="high")])
    assert surer.written == 1  # how sure it is, is part of what was known


async def test_a_value_that_arrives_late_between_two_equal_ones_leaves_the_newest(db: Conn) -> None:
    await upsert(db, [price(5, 1)])
    await upsert(db, [price(5, 3)])
    await upsert(db, [price(7, 2)])
    assert [await as_of(db, minute) for minute in (1, 2, 3)] == [[5], [7], [5]]
    assert await newest(db) == [5]


async def test_another_value_for_the_same_instant_is_left_out_and_counted(db: Conn) -> None:
    await upsert(db, [price(50, 5)])
    assert await upsert(db, [price(51, 5)]) == UpsertResult(1, 0, 1)
    assert await newest(db) == [50]


async def test_a_value_without_known_at_is_known_since_now(db: Conn) -> None:
    ((before,),) = await fetch(db, "SELECT clock_timestamp()")
    await upsert(db, [price(50), price(55), price(60)])  # of several at once the last is meant
    await upsert(db, [price(61)])
    history = await market_history(db, PRICE, NOON, NOON + timedelta(minutes=1))
    assert [value.value for value in history] == [60, 61]
    assert all(value.known_at is not None and value.known_at >= before for value in history)


async def test_an_estimate_that_goes_on_being_served_hides_no_later_figure(db: Conn) -> None:
    await upsert(db, [price(121, source="live")])
    await upsert(db, [price(100, 45, source="settled"), price(101, source="settled")])
    assert await newest(db) == [101]
    assert (await upsert(db, [price(121, source="live")])).written == 0
    assert await newest(db) == [101]
    await upsert(db, [price(122, source="live")])  # but this is news
    assert await newest(db) == [122]


async def test_what_a_person_writes_again_counts_again(db: Conn) -> None:
    await db.execute("INSERT INTO flux.market_data (time, type, value) VALUES (%s, 3, 50)", (NOON,))
    await upsert(db, [price(60, source="live")])
    await db.execute("UPDATE flux.market_data SET value = 50, metadata = '{}'")
    assert await newest(db) == [50]


async def test_nothing_can_be_known_before_it_is(db: Conn) -> None:
    with pytest.raises(InputError, match="still to come"):
        await upsert(db, [price(50, 5), price(50, 60 * 24 * 365 * 900)])
    assert await newest(db) == []


async def test_what_cannot_be_is_told(db: Conn) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="not a number"):
            await upsert(db, [price(value, 5)])
    with pytest.raises(InputError, match="no market data type 77"):
        await upsert(db, [MarketValue(type=77, time=NOON, value=1)])
    with pytest.raises(InputError, match="no site NOPE"):
        await upsert(db, [price(1, site="NOPE")])
    with pytest.raises(InputError, match="without a zone"):
        await upsert(db, [MarketValue(type=PRICE, time=datetime(2026, 1, 1), value=1)])  # noqa: DTZ001 - the point


async def test_a_sites_own_value_goes_before_the_one_for_all(db: Conn) -> None:
    await add_device(db, "M", site="WLCE")
    await add_device(db, "N", site="HMCE")
    await upsert(db, [price(50, 1), price(70, 3, site="WLCE"), price(90, 2, site="HMCE")])
    assert await as_of(db, 5) == [50]
    assert await as_of(db, 5, site="WLCE") == [70]
    assert await as_of(db, 2, site="WLCE") == [50]
    values = await market_values(db, [PRICE], NOON, NOON + timedelta(minutes=1), site="WLCE")
    assert [(value.value, value.site) for value in values] == [(70, "WLCE")]


# ── Plain SQL ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_people_write_lands_in_history(db: Conn) -> None:
    insert = "INSERT INTO flux.market_data (time, type, value) VALUES (%s, 3, %s)"
    await db.execute(insert, (NOON, 50))
    await db.execute(insert + " ON CONFLICT (type, site, time) DO UPDATE SET value = excluded.value", (NOON, 51))
    await db.execute("UPDATE flux.market_data SET value = 52")
    await db.execute("UPDATE flux.market_data SET value = 52")
    values = [value.value for value in await market_history(db, PRICE, NOON, NOON + timedelta(minutes=1))]
    assert values == [50, 51, 52]
    assert await newest(db) == [52]
    ((known, last),) = await fetch(
        db, "SELECT d.known_at, (SELECT max(known_at) FROM flux.market_data_history) FROM flux.market_data d"
    )
    assert known == last


async def test_people_may_state_when_it_was_known(db: Conn) -> None:
    await db.execute("INSERT INTO flux.market_data (time, type, value, known_at) VALUES (%s, 3, 50, %s)", (NOON, NOON))
    assert await as_of(db, 0) == [50]
    await db.execute(
        "INSERT INTO flux.market_data_history (time, type, value, known_at) VALUES (%s, 3, 9, now())", (NOON,)
    )
    assert await newest(db) == [9]


async def test_a_row_that_was_deleted_comes_back_with_the_next_fetch(db: Conn) -> None:
    await upsert(db, [price(50, 1)])
    await db.execute("DELETE FROM flux.market_data")
    assert (await upsert(db, [price(50)])).written == 0
    assert await newest(db) == [50]


async def test_writing_needs_no_rights_on_the_history(db: Conn, dsn: str) -> None:
    role = f"writer_{random.getrandbits(40)}"
    await db.execute(f"CREATE ROLE {role}")
    try:
        await db.execute(f"GRANT USAGE ON SCHEMA flux TO {role}")
        await db.execute(f"GRANT SELECT, INSERT, UPDATE ON flux.market_data TO {role}")
        await db.execute(f"SET ROLE {role}")
        await db.execute("INSERT INTO flux.market_data (time, type, value) VALUES (%s, 3, 50)", (NOON,))
        await db.execute("RESET ROLE")
        assert len(await market_history(db, PRICE, NOON, NOON + timedelta(minutes=1))) == 1
    finally:
        await db.execute("RESET ROLE")
        await db.execute(f"DROP OWNED BY {role}")
        await db.execute(f"DROP ROLE {role}")


async def test_listeners_are_told(db: Conn, dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as listener:
        await listener.execute("LISTEN flux_market")
        await upsert(db, [price(50, 1)])
        heard = [notice.payload async for notice in listener.notifies(timeout=5, stop_after=1)]
    assert heard == ["market_data"]


async def test_two_writers_at_once_add_a_value_once(db: Conn, dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as other, await connect(dsn, autocommit=True) as watcher:
        async with db.transaction():
            await upsert(db, [price(50)])
            second = asyncio.create_task(upsert(other, [price(50)]))
            while await fetch(watcher, "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory'") == []:
                assert not second.done()
        assert (await second).written == 0
    assert len(await market_history(db, PRICE, NOON, NOON + timedelta(minutes=1))) == 1


def test_what_was_there_before_there_was_a_history_is_known_since_then(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schema 0004 with market data in it: nothing is lost, and nothing is known before the upgrade."""
    real = migrate_module.run_migration_file

    def fill_before(name: str) -> None:
        if name.startswith("0005"):
            connection = op.get_bind().connection.driver_connection
            assert connection is not None
            connection.execute(
                "INSERT INTO flux.market_data (time, type, value) VALUES (%s, 3, 50), (%s, 2, 40)", (NOON, NOON)
            )
            connection.execute(
                "INSERT INTO flux.market_data_history (time, type, value, known_at) VALUES (%s, 2, 40, %s)",
                (NOON, NOON),
            )
        real(name)

    monkeypatch.setattr(migrate_module, "run_migration_file", fill_before)
    migrate_module.migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        rows = connection.execute("SELECT type, value, known_at FROM flux.market_data_history ORDER BY type").fetchall()
        kept = connection.execute("SELECT type, value, known_at FROM flux.market_data ORDER BY type").fetchall()
    assert rows == kept
    assert [row[:2] for row in rows] == [(2, 40), (3, 50)]
    assert rows[0][2] == NOON < rows[1][2]


# ── Types ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_types_can_be_registered(db: Conn) -> None:
    added = await add_data_type(db, "day_ahead", "£/MWh", "N2EX day-ahead auction", holds=timedelta(hours=1))
    assert (added.id, added.holds) == (100, timedelta(hours=1))
    assert await data_type(db, "day_ahead") == await data_type(db, "100") == added
    assert (await add_data_type(db, "carbon", "g/kWh", "carbon intensity")).id == 101
    with pytest.raises(ConflictError):
        await add_data_type(db, "day_ahead", "£/MWh", "again")
    with pytest.raises(NotFoundError, match="imbalance_price"):
        await data_type(db, "nonsense")
    await upsert(db, [MarketValue(type=100, time=NOON, value=1)])
    row = next(row for row in await summary(db) if row["type"] == 100)
    assert (row["count"], row["last"], row["last_value"]) == (1, NOON, 1)


# ── Properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

_STATED = st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 2))  # which half hour, known when, value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), stated=st.lists(_STATED, max_size=9, unique_by=lambda one: one[:2]))
async def test_any_order_and_repetition_give_the_same_tables(db: Conn, data: st.DataObject, stated: list[Any]) -> None:
    values = [price(value, known, time=NOON + timedelta(minutes=30 * half)) for half, known, value in stated]
    expected = _what_was_known(values)
    tables = []
    for arrival in range(2):
        arriving = data.draw(st.permutations(values + values[: len(values) // 2]))
        cut = data.draw(st.integers(0, len(arriving)))
        async with db.transaction(force_rollback=True):
            await upsert(db, arriving[:cut])
            for value in arriving[cut:]:
                await upsert(db, [value])
            tables.append((await fetch(db, HISTORY), await fetch(db, NEWEST)))
            if arrival == 0:
                assert {minute: await as_of(db, minute) for minute in range(-1, 10)} == expected
    assert tables[0] == tables[1]


def _what_was_known(values: list[MarketValue]) -> dict[int, list[float]]:
    """The plain way: at each minute, for each time, the value stated last."""
    known = {}
    for minute in range(-1, 10):
        then = NOON + timedelta(minutes=minute)
        seen = sorted((v for v in values if v.known_at and v.known_at <= then), key=lambda v: v.known_at or NOON)
        newest_of = {value.time: value.value for value in seen}
        known[minute] = [newest_of[time] for time in sorted(newest_of)]
    return known
