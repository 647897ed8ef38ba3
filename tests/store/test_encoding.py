"""Readings as bytes: exact, and readable after the metrics have changed."""

import dataclasses
import struct
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edge.fakes import BESS, START, kept_decision, meter_reading

from flux.control.ledger import PlanText
from flux.model import (
    BESS_METRICS,
    METER_METRICS,
    BessReading,
    DeviceId,
    HealthRecord,
    HealthStatus,
    MeterReading,
    MetricKind,
    Reading,
)
from flux.store.encoding import Layout, RecordCodec, current_layouts

CODEC = RecordCodec(dict(enumerate(current_layouts(), start=1)))


def values_of(kind: MetricKind) -> st.SearchStrategy[Any]:
    value: st.SearchStrategy[Any] = st.floats(allow_nan=False)
    if kind is MetricKind.CODE:
        value = st.integers(-32768, 32767)
    return st.none() | value


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    bess = draw(st.booleans())
    metrics = {m.name: draw(values_of(m.kind)) for m in (BESS_METRICS if bess else METER_METRICS)}
    time = draw(st.datetimes(timezones=st.just(UTC)))
    device = DeviceId(draw(st.uuids()))
    return (BessReading if bess else MeterReading)(device_id=device, time=time, **metrics)


@given(readings())
def test_every_reading_comes_back_the_same(reading: Reading) -> None:
    assert CODEC.decode(CODEC.encode(reading)) == reading


def test_microseconds_none_and_awkward_floats_survive() -> None:
    reading = MeterReading(
        device_id=DeviceId(UUID(int=9)),
        time=datetime(2026, 1, 15, 12, 0, 0, 1, tzinfo=UTC),
        frequency=0.1 + 0.2,
        power_total_active=-0.0,
        energy_imported_active=131072.01,
    )
    back = CODEC.decode(CODEC.encode(reading))
    assert back == reading
    assert back.time.microsecond == 1
    assert isinstance(back, MeterReading)
    assert str(back.power_total_active) == "-0.0"
    assert back.voltage_line_average is None


def test_documents_come_back_the_same() -> None:
    well = HealthRecord(device_id=DeviceId(UUID(int=7)), time=START, status=HealthStatus.ONLINE)
    ill = dataclasses.replace(well, status=HealthStatus.OFFLINE, last_successful_poll=START, diagnostics={"error": "x"})
    for record in (kept_decision(3), PlanText("abc", '{"bess": ["WLCE-BESS-01"]}'), well, ill):
        assert CODEC.decode(CODEC.encode(record)) == record


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"kind": "x"}', b'{"kind": "decision"}', b'{"kind": "plan"}', b"\xff"]
)
def test_what_is_no_document_is_told(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a document"):
        CODEC.decode(b"\0\0" + body)


def test_a_document_of_a_later_version_is_read_as_far_as_it_goes() -> None:
    data = CODEC.encode(kept_decision(3))
    later = data.replace(b'{"kind":', b'{"weather":"rain","kind":')
    assert later != data
    assert CODEC.decode(later) == kept_decision(3)


def test_a_code_comes_back_as_an_integer() -> None:
    reading = BessReading(device_id=BESS, time=START, available_inverter_blocks=3)
    back = CODEC.decode(CODEC.encode(reading))
    assert isinstance(back, BessReading)
    assert type(back.available_inverter_blocks) is int


def test_readings_written_before_a_metric_moved_are_still_read_right() -> None:
    older = Layout("meter", ("energy_imported_active", "frequency", "power_total_active"))
    by_version = {1: older, **dict(enumerate(current_layouts(), start=2))}
    codec = RecordCodec(by_version)
    reading = meter_reading(5)
    written = older_bytes(reading, number=1)
    assert codec.decode(written) == reading


def older_bytes(reading: MeterReading, number: int) -> bytes:
    """As the version whose layout is ``energy_imported_active, frequency, power_total_active`` wrote it."""
    micros = int((reading.time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    values = (reading.energy_imported_active, reading.frequency, reading.power_total_active)
    return struct.pack("<H16sqQ3d", number, reading.device_id.bytes, micros, 0b111, *values)


def test_a_layout_survives_as_json() -> None:
    for layout in current_layouts():
        assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("data", [b"", b"\x01\x00", b"\xff\xff" + bytes(32), CODEC.encode(meter_reading(1))[:-1]])
def test_bytes_that_are_no_reading_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a reading"):
        CODEC.decode(data)


def test_a_full_meter_reading_is_small() -> None:
    metrics: dict[str, Any] = {metric.name: 1.5 for metric in METER_METRICS}
    assert len(CODEC.encode(MeterReading(device_id=DeviceId(UUID(int=1)), time=START, **metrics))) < 250
