"""How a device is doing, told by its polls; time comes with them."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch

from flux.devices.driver import Poll
from flux.devices.transport import DeviceFaultError
from flux.edge.health import FAILED_AFTER, HealthRules, HealthTracker
from flux.model import DeviceError, DeviceId, HealthRecord, HealthStatus
from flux.store.health import health_history, health_overview, store_health, uptime
from flux.store.ingest import IngestResult

DEVICE = DeviceId(UUID(int=7))
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
RULES = HealthRules()
NOTHING: dict[str, int] = {}


class Device:
    """Polls at chosen seconds; keeps the records that came of them."""

    def __init__(self, rules: HealthRules = RULES) -> None:
        self.tracker = HealthTracker(DEVICE, rules, NOON)
        self.records: list[HealthRecord] = []

    def answers(self, at_s: float, response_s: float = 0.02, problems: tuple[str, ...] = ()) -> None:
        poll = Poll(NOON + at_s * SECOND, {}, response_s, problems)
        self._keep(self.tracker.succeeded(poll, NOTHING))

    def fails(self, at_s: float, error: DeviceError | None = None) -> None:
        self._keep(self.tracker.failed(NOON + at_s * SECOND, error or DeviceError("no answer"), NOTHING))

    def _keep(self, record: HealthRecord | None) -> None:
        if record is not None:
            self.records.append(record)

    @property
    def story(self) -> list[tuple[float, str]]:
        return [((record.time - NOON).total_seconds(), str(record.status)) for record in self.records]


def test_a_device_that_answers_is_recorded_once_an_interval() -> None:
    device = Device()
    for second in range(0, 660, 60):
        device.answers(second)
    assert device.story == [(0, "online"), (300, "online"), (600, "online")]
    assert device.records[0].response_time_ms == 20


def test_it_goes_offline_after_two_minutes_and_comes_back_at_once() -> None:
    device = Device()
    for second in range(0, 60, 5):
        device.answers(second)
    for second in range(60, 300, 5):
        device.fails(second)
    device.answers(300)
    assert device.story == [(0, "online"), (75, "degraded"), (175, "offline"), (300, "degraded")]
    offline = device.records[2]
    assert offline.last_successful_poll == NOON + 55 * SECOND
    assert (offline.error_count, offline.diagnostics["error"]) == (24, "no answer")
    assert device.records[3].error_count == 0


def test_slow_answers_are_degraded() -> None:
    device = Device()
    device.answers(0)
    device.answers(60, response_s=1.0)
    device.answers(120, response_s=1.001)
    device.answers(180)
    assert device.story == [(0, "online"), (120, "degraded"), (180, "online")]


def test_more_than_a_fifth_of_bad_polls_is_degraded() -> None:
    device = Device()
    for second in range(20):
        device.answers(second)
    for second in range(20, 24):
        device.answers(second, problems=("block 7 failed",))
    assert [str(record.status) for record in device.records] == ["online"]
    device.answers(24, problems=("block 7 failed",))
    assert device.story[1:] == [(24, "degraded")]
    assert device.records[1].diagnostics["problems"] == ["block 7 failed"]


def test_one_that_never_answered_is_offline_once_it_had_the_time() -> None:
    device = Device()
    for second in range(0, 130, 10):
        device.fails(second)
    assert device.story == [(0, "degraded"), (120, "offline")]
    assert device.tracker.failing_for(NOON + 120 * SECOND) == 120 * SECOND > FAILED_AFTER


def test_the_exception_code_is_in_the_diagnostics() -> None:
    device = Device()
    error = DeviceError("WLCE-BESS-01: refused")
    error.__cause__ = DeviceFaultError(6, "read")
    device.fails(0, error)
    assert device.records[0].diagnostics["exception_code"] == 6


def test_flapping_is_told_as_flapping_once() -> None:
    device = Device(HealthRules(polls=1, interval=30 * MINUTE))
    for number in range(40):  # well, then not, every 10 s
        (device.answers if number % 2 else device.fails)(number * 10)
    flapping = [record for record in device.records if record.diagnostics.get("flapping")]
    assert len(device.records) == 5
    assert flapping == device.records[-1:]
    for second in range(400, 400 + 16 * 60, 60):
        device.answers(second)
    device.fails(1400)
    assert "flapping" not in device.records[-1].diagnostics


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 400), st.floats(0, 3)), max_size=80))
def test_what_holds_for_every_story(polls: list[tuple[bool, float, float]]) -> None:
    device = Device()
    at, failed, last_success, last_told = 0.0, 0, 0.0, -1e9
    for good, pause, response in polls:
        at += pause
        count = len(device.records)
        device.answers(at, response) if good else device.fails(at)
        failed, last_success = (0, at) if good else (failed + 1, last_success)
        assert (device.tracker.status is HealthStatus.OFFLINE) == (not good and at - last_success >= 120 - 1e-6)
        told = len(device.records) > count
        assert told or at - last_told < 300 + 1e-6  # never silent for longer than the interval
        if told:
            last_told = at
            assert device.records[-1].error_count == failed


# ── in the database ────────────────────────────────────────────────────────────────────────────────────────────────


def record(device_id: DeviceId, minutes: float, status: str) -> HealthRecord:
    return HealthRecord(device_id=device_id, time=NOON + minutes * MINUTE, status=HealthStatus(status))


async def test_records_are_stored_once_and_strangers_left_out(db: AsyncConnection[Any]) -> None:
    device = await add_device(db, "M")
    batch = [record(device, 0, "online"), record(DEVICE, 0, "online"), record(device, 5, "offline")]
    assert await store_health(db, batch) == IngestResult(2, 0, 1)
    assert await store_health(db, batch) == IngestResult(0, 2, 1)
    assert len(await health_history(db, device, NOON, NOON + MINUTE)) == 1
    (now,) = await health_overview(db)
    assert (now.name, now.status) == ("M", "offline")


async def test_uptime_is_of_what_is_known(db: AsyncConnection[Any]) -> None:
    device = await add_device(db, "M")
    await add_device(db, "SILENT")
    story = [(-5, "online"), (5, "offline"), (15, "degraded"), (20, "online"), (90, "online")]
    await store_health(db, [record(device, minutes, status) for minutes, status in story])
    known, silent = await uptime(db, NOON, NOON + 60 * MINUTE)
    # online 0–5 and, since a record holds for 15 minutes at most, 20–35
    hours = (known.online_h, known.offline_h, known.degraded_h, known.unknown_h)
    assert hours == pytest.approx((20 / 60, 10 / 60, 5 / 60, 25 / 60))
    assert known.uptime == pytest.approx(25 / 35)
    assert silent.uptime is None
    assert silent.unknown_h == pytest.approx(1)
    assert await fetch(db, "SELECT count(*) FROM flux.device_uptime(%s, %s)", (NOON, NOON + MINUTE)) == [(2,)]
