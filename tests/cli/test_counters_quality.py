"""`flux counters` and `flux quality`: an operator overrules, and the rollups follow."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch, meter_reading
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import InputError, NotFoundError
from flux.store.ingest import ingest
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
Run = Callable[..., Awaitable[str]]
COUNTER = "energy_imported_active"


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; gives what it printed; errors of ours are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def invoke(arguments: tuple[str, ...]) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    async def run(*arguments: str) -> str:
        return (await asyncio.to_thread(invoke, arguments)).stdout  # a command has an event loop of its own

    return run


async def store(conn: Conn, *values: float, metadata: dict[str, Any] | None = None) -> Any:
    """One reading a minute of the import counter, from noon; rolled up."""
    meter = await add_device(conn, "M", metadata=metadata)
    minutes = [
        meter_reading(meter, NOON + timedelta(minutes=k), **{COUNTER: v}, power_total_active=float(k))
        for k, v in enumerate(values)
    ]
    await ingest(conn, minutes)
    await refresh(conn)
    return meter


async def total(conn: Conn) -> float:
    await refresh(conn)
    ((energy,),) = await fetch(conn, f"SELECT sum({COUNTER}_delta) FROM flux.mg_meter_readings_1h")
    return float(energy)


async def test_a_fall_is_ruled_and_the_ruling_survives_and_is_taken_back(db: Conn, run: Run) -> None:
    meter = await store(db, 1000, 1001, 900, 901, 902, 903, 904, 905, 906)
    assert await total(db) == pytest.approx(1 + 6)
    assert "correction" in (await run("counters", "list"))
    await run(
        "counters", "reject", "M", COUNTER, "2026-01-15T12:02", "--step", "7.25", "--reason", "old meter's last reading"
    )
    assert await total(db) == pytest.approx(1 + 6 + 7.25)
    await db.execute("SELECT flux.note_rollup_change(%s)", (meter,))
    assert await total(db) == pytest.approx(1 + 6 + 7.25), "it survives that all is computed anew"
    (event,) = json.loads(await run("counters", "list", "--all", "--json"))
    assert (event["kind"], event["step"], event["ruling"], event["needs_review"]) == ("correction", 7.25, "step", False)
    assert "@" in event["decided_by"]
    assert event["reason"] == "old meter's last reading"
    assert (await run("counters", "list")).startswith("nothing to review")

    await run("counters", "reject", "M", COUNTER, "2026-01-15T12:02", "--as", "restart")
    assert await total(db) == pytest.approx(1 + 6 + 900)
    await run("counters", "withdraw", "M", COUNTER, "2026-01-15T12:02", "--reason", "mine was wrong")
    assert await total(db) == pytest.approx(1 + 6)
    assert await fetch(db, "SELECT kind, step FROM flux.counter_ruling_history ORDER BY id") == [
        ("step", 7.25),
        ("restart", None),
        ("withdrawn", None),
    ]


async def test_accepting_ends_the_review_and_changes_nothing(db: Conn, run: Run) -> None:
    await store(db, 1000, 1001, 900, 901, 902, 903, 904, 905, 906)
    await run("counters", "accept", "M", COUNTER, "2026-01-15T12:02:00")
    assert (await run("counters", "list")).startswith("nothing to review")
    assert await total(db) == pytest.approx(1 + 6)
    assert await fetch(db, "SELECT needs_review, ruling FROM flux.counter_events") == [(False, "as_judged")]


async def test_a_glitch_can_be_ruled_a_restart(db: Conn, run: Run) -> None:
    await store(db, 10, 11, 1, 12, 13)
    assert await total(db) == pytest.approx(3)
    await run("counters", "reject", "M", COUNTER, "2026-01-15T12:02", "--as", "restart")
    assert await total(db) == pytest.approx(1 + 1 + 11 + 1)


async def test_a_jump_counts_nothing_until_somebody_says_that_it_is_true(db: Conn, run: Run) -> None:
    await store(db, 1000, 1001, 1500, 1501, 1502, 1503, 1504, 1505, metadata={"max_power_kw": 60})
    assert await total(db) == pytest.approx(1 + 5)
    assert "jump" in (await run("counters", "list"))
    with pytest.raises(InputError, match="for a fall"):
        await run("counters", "reject", "M", COUNTER, "2026-01-15T12:02", "--as", "restart")
    await run(
        "counters", "reject", "M", COUNTER, "2026-01-15T12:02", "--as", "rise", "--reason", "the meter was off line"
    )
    assert await total(db) == pytest.approx(1 + 499 + 5)


async def test_a_spike_is_left_out_and_its_mark_can_be_lifted(db: Conn, run: Run) -> None:
    await store(db, 1000, 1001, 5000, 5000, 1003, 1004, metadata={"max_power_kw": 60})
    assert await total(db) == pytest.approx(4)
    assert await fetch(db, "SELECT kind FROM flux.counter_events") == []
    rows = json.loads(await run("quality", "list", "--json"))
    assert [(row["reason"], row["value"]) for row in rows] == [("spike", 5000.0), ("spike", 5000.0)]
    assert "2 values taken back" in (
        await run("quality", "lift", "M", COUNTER, "2026-01-15T12:02", "--until", "2026-01-15T12:04")
    )
    assert await total(db) == pytest.approx(1 + 3999), "up by what was read; the fall after it is not decided yet"


async def test_a_person_marks_a_span_and_takes_it_back(db: Conn, run: Run) -> None:
    await store(db, *[1000.0 + k for k in range(10)])
    mean = "SELECT power_total_active_avg, power_total_active_max, samples FROM flux.mg_meter_readings_1h"
    span = ("M", "power_total_active", "2026-01-15T12:05", "--until", "2026-01-15T13:00")
    assert "5 values left out" in (await run("quality", "mark", *span, "--reason", "CT open"))
    await refresh(db)
    assert await fetch(db, mean) == [(2.0, 4.0, 10)]
    assert "CT open" in (await run("quality", "list"))
    assert "0 values left out" in (await run("quality", "mark", *span))
    await run("quality", "lift", *span)
    await refresh(db)
    assert await fetch(db, mean) == [(4.5, 9.0, 10)]
    assert (await run("quality", "list")) == "no value is marked\n"
    assert "CT open" in (await run("quality", "list", "--all"))


async def test_a_stuck_power_is_left_out_while_the_energy_says_otherwise(db: Conn, run: Run) -> None:
    meter = await add_device(db, "M", metadata={"power_stuck_after": "2h"})
    batch = [
        meter_reading(
            meter,
            NOON + timedelta(minutes=k),
            power_total_active=20.0 if k < 30 or k > 300 else 55.5,
            energy_imported_active=1000 + k / 3,  # 20 kW all the time
        )
        for k in range(330)
    ]
    await ingest(db, batch)
    await refresh(db)
    ((marked, lowest, highest),) = await fetch(
        db, "SELECT count(*), min(time), max(time) FROM flux.reading_marks WHERE reason = 'stuck'"
    )
    assert (marked, lowest, highest) == (271, NOON + timedelta(minutes=30), NOON + timedelta(minutes=300))
    peaks = await fetch(db, "SELECT max(power_total_active_max), sum(samples) FROM flux.mg_meter_readings_1h")
    assert peaks == [(20.0, 330)]
    assert await total(db) == pytest.approx(329 / 3)


async def test_what_cannot_be_ruled_or_marked_is_told(db: Conn, run: Run) -> None:
    await store(db, 1000, 1001, 900, 901, 902, 903, 904, 905, 906)
    await add_device(db, "B", "bess")
    at = ("M", COUNTER, "2026-01-15T12:02")
    for arguments, error, told in (
        (("counters", "accept", "M", COUNTER, "2026-01-15T12:03"), NotFoundError, "no event at 2026-01-15 12:03:00"),
        (("counters", "reject", *at), InputError, "say what it was"),
        (("counters", "reject", *at, "--as", "miracle"), InputError, "one of restart"),
        (("counters", "reject", *at, "--as", "rollover"), InputError, "nobody knows the width"),
        (("counters", "reject", *at, "--as", "rise"), InputError, "a rise is for a jump"),
        (("counters", "withdraw", *at), NotFoundError, "nothing was ruled"),
        (("counters", "accept", "M", COUNTER, "noon"), InputError, "write it like"),
        (("quality", "lift", *at), NotFoundError, "no mark stands"),
        (("quality", "mark", "M", "power", "2026-01-15T12:02"), InputError, "no metric of a meter"),
        (("quality", "mark", "M", COUNTER, "2026-01-16T12:02"), NotFoundError, "no value at"),
        (("quality", "mark", "B", "soe", "2026-01-15T12:02"), InputError, "is a battery"),
    ):
        with pytest.raises(error, match=told):
            await run(*arguments)
