"""The ledger in the database: what is stored, what is refused, and what is read back."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from psycopg import AsyncConnection
from tests.control.test_ledger import kept_states
from tests.control.test_properties import plans
from tests.support import NOON, add_device, fetch

from flux.control.decide import decide
from flux.control.ledger import KeptDecision, PlanText, differences, keep, plan_of_text, plan_text, replay_kept
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState, Measurement
from flux.model import Device, DeviceId
from flux.registry import get_device
from flux.store.decisions import (
    LedgerSpan,
    decision_at,
    decisions_of_site,
    newest_plan_zone,
    plan_body,
    store_decisions,
)
from flux.store.ingest import IngestResult
from flux.store.lifecycle import retention_turn

Conn = AsyncConnection[Any]
MINUTE = timedelta(minutes=1)
PLAN = ControllerPlan.model_validate(
    {
        "site_meter": "WLCE-GRID-METER",
        "bess": ["WLCE-BESS-01", "WLCE-BESS-02"],
        "battery": {"capacity_kwh": 500, "charge_limit_kw": 100, "discharge_limit_kw": 105},
        "site": {"import_limit_kw": 220, "export_limit_kw": 475},
        "modes": [{"mode": "import_avoidance"}],
    }
)
TEXT = plan_text(PLAN)


def state_at(time: datetime, site_kw: float = 35.0) -> CycleState:
    return CycleState(time=time, site_power=Measurement(site_kw, time), soe_kwh=Measurement(210.0, time))


def kept(device_id: DeviceId, time: datetime = NOON, site_kw: float = 35.0, plan: str = "") -> KeptDecision:
    state = state_at(time, site_kw)
    return keep(decide(PLAN, state), state, device_id=device_id, hash_of_plan=TEXT.hash, plan=plan)


@pytest.fixture
async def bess(db: Conn) -> DeviceId:
    return await add_device(db, "WLCE-BESS-01", "bess")


async def device(db: Conn, name: str = "WLCE-BESS-01") -> Device:
    return await get_device(db, name)


async def test_what_is_sent_twice_is_stored_once(db: Conn, bess: DeviceId) -> None:
    batch = [kept(bess, NOON + n * MINUTE) for n in range(3)]
    assert await store_decisions(db, batch, [TEXT]) == IngestResult(4, 0, 0)
    assert await store_decisions(db, batch, [TEXT]) == IngestResult(0, 4, 0)
    assert await fetch(db, "SELECT count(*) FROM flux.control_decisions") == [(3,)]


async def test_a_decision_of_nobody_is_refused_and_holds_up_nothing(db: Conn, bess: DeviceId) -> None:
    meter = await add_device(db, "WLCE-GRID-METER")
    nobody = DeviceId(uuid4())
    ahead = datetime.now(UTC) + timedelta(hours=1)
    batch = [kept(nobody), kept(bess), kept(meter), kept(bess, ahead), kept(bess, datetime(1999, 1, 1, tzinfo=UTC))]
    assert await store_decisions(db, batch) == IngestResult(1, 0, 4)
    assert await store_decisions(db, batch) == IngestResult(0, 1, 4)
    rows = await fetch(db, "SELECT device_id, reason, payload FROM flux.rejected_decisions ORDER BY id")
    assert [(row[0], row[1]) for row in rows] == [
        (nobody, "unknown_device"),
        (meter, "wrong_type"),
        (bess, "impossible_time"),
        (bess, "impossible_time"),
    ]
    assert json.loads(rows[0][2])["inputs"]["site_power"]["value"] == 35.0


async def test_a_text_that_no_database_takes_is_refused_alone(db: Conn, bess: DeviceId) -> None:
    bad = dataclasses.replace(kept(bess, NOON + MINUTE), reason="dispatched to \0")
    worse = dataclasses.replace(kept(bess, NOON + 2 * MINUTE), inputs={"schedule": "\0"})
    third = dataclasses.replace(kept(bess, NOON + 2.5 * MINUTE), reason="dispatched to \ud800")
    plan = PlanText("h", '{"timezone": "\\u0000"}')
    batch = [kept(bess), bad, worse, third, kept(bess, NOON + 3 * MINUTE)]
    assert await store_decisions(db, batch, [plan, TEXT]) == IngestResult(3, 0, 4)
    reasons = await fetch(db, "SELECT DISTINCT reason FROM flux.rejected_decisions")
    assert reasons == [("impossible_value",)]
    assert await fetch(db, "SELECT time FROM flux.control_decisions ORDER BY 1") == [(NOON,), (NOON + 3 * MINUTE,)]


async def test_decisions_over_several_weeks_find_their_pieces(db: Conn, bess: DeviceId) -> None:
    batch = [kept(bess, NOON + timedelta(days=5 * n)) for n in range(6)]
    assert (await store_decisions(db, batch)).stored == 6


@pytest.mark.usefixtures("bess")
async def test_what_is_read_back_replays_to_the_same(db: Conn, bess: DeviceId) -> None:
    await store_decisions(db, [kept(bess, site_kw=35.1)], [TEXT])
    row = await decision_at(db, await device(db), NOON + MINUTE, within=timedelta(hours=1))
    assert row is not None
    again = replay_kept(plan_of_text(row["plan_body"]), row["inputs"])
    assert differences(row, again) == []
    assert again.proposals[0].reason == "import avoidance, site would draw 35.1 kW"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans(), state=kept_states())
def test_jsonb_keeps_any_inputs_exactly(dsn: str, plan: ControllerPlan, state: CycleState) -> None:
    """Through the database and back, whatever floats there are; texts with NUL are another test's."""
    import psycopg
    from psycopg.types.json import Jsonb

    decision, text = decide(plan, state), plan_text(plan)
    inputs = dict(keep(decision, state, device_id=DeviceId(UUID(int=1)), hash_of_plan=text.hash).inputs)
    if "\\u0000" in json.dumps(inputs):
        return
    with psycopg.connect(dsn, autocommit=True) as conn:
        back, body = conn.execute("SELECT %s::jsonb, %s::jsonb", (Jsonb(inputs), text.body)).fetchone() or ({}, {})
    again = replay_kept(plan_of_text(body), back)
    assert repr(again).replace(" fold=1,", "") == repr(decision).replace(" fold=1,", "")


async def test_the_decision_that_held(db: Conn, bess: DeviceId) -> None:
    await store_decisions(db, [kept(bess, NOON), kept(bess, NOON + MINUTE), kept(bess, NOON, plan="calm")], [TEXT])
    me, hour = await device(db), timedelta(hours=1)

    async def time_of(at: datetime, plan: str = "") -> datetime | None:
        row = await decision_at(db, me, at, plan=plan, within=hour)
        return None if row is None else row["time"]

    assert await time_of(NOON - MINUTE) is None
    assert await time_of(NOON) == NOON
    assert await time_of(NOON + 0.9 * MINUTE) == NOON
    assert await time_of(NOON + 2 * MINUTE) == NOON + MINUTE
    assert await time_of(NOON + 2 * MINUTE, "calm") == NOON
    assert await time_of(NOON + 3 * hour) is None, "an edge that was off decided nothing"


async def test_the_second_battery_of_a_plan_finds_its_decisions(db: Conn, bess: DeviceId) -> None:
    for name, site in (("WLCE-BESS-02", "WLCE"), ("WLCE-BESS-03", "WLCE"), ("HMCE-BESS-02", "HMCE")):
        await add_device(db, name, "bess", site=site)
    await store_decisions(db, [kept(bess)], [TEXT])
    found = {
        name: await decision_at(db, await device(db, name), NOON, within=MINUTE)
        for name in ("WLCE-BESS-02", "WLCE-BESS-03", "HMCE-BESS-02")
    }
    assert [name for name, row in found.items() if row] == ["WLCE-BESS-02"]


async def test_the_log_of_a_site(db: Conn, bess: DeviceId) -> None:
    other = await add_device(db, "HMCE-BESS-01", "bess", site="HMCE")
    batch = [kept(bess, NOON + n * MINUTE) for n in range(4)]
    await store_decisions(db, [*batch, kept(bess, NOON, plan="calm"), kept(other)], [TEXT])

    async def minutes(span: LedgerSpan, **more: Any) -> list[tuple[str, int]]:
        rows = await decisions_of_site(db, "WLCE", span, **more)
        return [(row["plan"], (row["time"] - NOON) // MINUTE) for row in rows]

    until = NOON + 3 * MINUTE
    assert await minutes(LedgerSpan(NOON, until)) == [("", 0), ("", 1), ("", 2)]
    assert await minutes(LedgerSpan(NOON, until), limit=1) == [("", 2)]
    assert await minutes(LedgerSpan(NOON, until, "calm")) == [("calm", 0)]
    assert await minutes(LedgerSpan(NOON, until, None)) == [("", 0), ("calm", 0), ("", 1), ("", 2)]


async def test_a_plan_is_found_by_the_start_of_its_hash(db: Conn, bess: DeviceId) -> None:
    await store_decisions(db, [kept(bess)], [TEXT])
    row = await plan_body(db, TEXT.hash[:6])
    assert row is not None
    assert plan_of_text(row["body"]) == PLAN
    assert await plan_body(db, "nothing") is None
    assert await newest_plan_zone(db, await device(db)) == "Europe/London"


async def test_the_key_begins_with_the_device_and_rows_are_kept_90_days(db: Conn) -> None:
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'control_decisions_pkey'"
    assert await fetch(db, query) == [('PRIMARY KEY (device_id, plan, "time")',)]
    keep_days = "SELECT keep FROM flux.time_series WHERE table_name = 'control_decisions'"
    assert await fetch(db, keep_days) == [(timedelta(days=90),)]


async def test_decisions_are_kept_for_90_days(db: Conn, bess: DeviceId) -> None:
    ((now,),) = await fetch(db, "SELECT now()")
    times = [now - timedelta(days=days) for days in (120, 80, 0)]
    await store_decisions(db, [kept(bess, time) for time in times], [TEXT])
    await retention_turn(db, None)
    assert [time for (time,) in await fetch(db, "SELECT time FROM flux.control_decisions ORDER BY time")] == times[1:]
