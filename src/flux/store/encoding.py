"""Readings as bytes: compact, exact, and readable by a later version with other metrics. Documents as JSON.

A reading is a header (layout number, device, time in µs, which metrics are present) and one double per present metric.
A *layout* names the class and its metrics in order; it is kept beside the bytes, so that readings written before a
metric was added or moved are still read right. A 25-metric meter reading takes 242 bytes.

What the controller decided, its plan, and how devices are doing are *documents*: layout number 0, then JSON.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flux.control.ledger import KeptDecision, PlanText, kept_from_json, kept_to_json
from flux.model import BessReading, DeviceId, HealthRecord, HealthStatus, MeterReading, MetricKind, Reading, metrics_of

_HEADER = struct.Struct("<H16sqQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
READING_CLASSES: Mapping[str, type[Reading]] = {"bess": BessReading, "meter": MeterReading}
_DOCUMENT = struct.pack("<H", 0)  # SQLite numbers layouts from 1

Document = KeptDecision | PlanText | HealthRecord
Recorded = Reading | Document
"""What the edge keeps until the platform has it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The class and the metrics, in order, of readings that were written alike."""

    kind: str
    metrics: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "metrics": self.metrics})

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        body = json.loads(text)
        return cls(body["kind"], tuple(body["metrics"]))


def current_layouts() -> tuple[Layout, ...]:
    """What this version writes."""
    return tuple(Layout(kind, tuple(m.name for m in metrics_of(cls))) for kind, cls in READING_CLASSES.items())


class RecordCodec:
    """Turns what is recorded into bytes and back; ``layouts`` maps each number in use to its layout."""

    def __init__(self, layouts: Mapping[int, Layout]) -> None:
        numbers = {layout: number for number, layout in layouts.items()}
        self._write = {
            READING_CLASSES[layout.kind]: (numbers[layout], layout.metrics)
            for layout in current_layouts()
            if layout in numbers
        }
        self._read = {number: _Reader(layout) for number, layout in layouts.items()}

    def encode(self, record: Recorded) -> bytes:
        if isinstance(record, Document):
            return _DOCUMENT + json.dumps(_document(record), separators=(",", ":"), allow_nan=False).encode()
        return self._encode_reading(record)

    def _encode_reading(self, reading: Reading) -> bytes:
        number, metrics = self._write[type(reading)]
        values = []
        present = 0
        for position, name in enumerate(metrics):
            value = getattr(reading, name)
            if value is not None:
                present |= 1 << position
                values.append(value)
        micros = (reading.time - _EPOCH) // _MICROSECOND
        return _HEADER.pack(number, reading.device_id.bytes, micros, present) + struct.pack(f"<{len(values)}d", *values)

    def decode(self, data: bytes) -> Recorded:
        """What was encoded; ValueError when ``data`` is nothing of the kind."""
        if data.startswith(_DOCUMENT):
            return _record(data[len(_DOCUMENT) :])
        try:
            number, device, micros, present = _HEADER.unpack_from(data)
            values = struct.unpack_from(f"<{present.bit_count()}d", data, _HEADER.size)
            reader = self._read[number]
        except (struct.error, KeyError) as error:
            raise ValueError(f"not a reading: {error}") from error
        return reader.reading(DeviceId(UUID(bytes=device)), _EPOCH + micros * _MICROSECOND, present, values)


def _document(record: Document) -> dict[str, Any]:
    if isinstance(record, PlanText):
        return {"kind": "plan", "hash": record.hash, "body": record.body}
    if isinstance(record, HealthRecord):
        return {"kind": "health", **_health_to_json(record)}
    return {"kind": "decision", **kept_to_json(record)}


def _health_to_json(record: HealthRecord) -> dict[str, Any]:
    last = record.last_successful_poll
    return {
        **{field.name: getattr(record, field.name) for field in fields(record)},
        "device_id": str(record.device_id),
        "time": record.time.isoformat(),
        "last_successful_poll": None if last is None else last.isoformat(),
    }


def _health_from_json(body: Mapping[str, Any]) -> HealthRecord:
    values = {field.name: body[field.name] for field in fields(HealthRecord) if field.name in body}
    last = values.get("last_successful_poll")
    return HealthRecord(
        **values
        | {
            "device_id": DeviceId(UUID(values["device_id"])),
            "time": datetime.fromisoformat(values["time"]),
            "status": HealthStatus(values["status"]),
            "last_successful_poll": None if last is None else datetime.fromisoformat(last),
        }
    )


def _record(data: bytes) -> Document:
    """ValueError for what is no document."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not a document of the outbox: {error}") from error
    return document_from_json(body)


def document_from_json(body: Any) -> Document:
    """ValueError for what is no document; a field that this version does not have is left out."""
    try:
        if body["kind"] == "health":
            return _health_from_json(body)
        return kept_from_json(body) if body["kind"] == "decision" else _plan_text(body)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a document of the outbox: {error!r}") from error


def _plan_text(body: dict[str, Any]) -> PlanText:
    if body["kind"] != "plan":
        raise ValueError(f"of kind {body['kind']!r}")
    return PlanText(body["hash"], body["body"])


class _Reader:
    """Builds readings from values written with one layout."""

    def __init__(self, layout: Layout) -> None:
        self._class = READING_CLASSES[layout.kind]
        known = {metric.name: metric.kind for metric in metrics_of(self._class)}
        # a metric that this version no longer has is left out
        self._metrics = [(name if name in known else None, known.get(name)) for name in layout.metrics]

    def reading(self, device_id: DeviceId, time: datetime, present: int, values: tuple[float, ...]) -> Reading:
        metrics: dict[str, float | int] = {}
        following = iter(values)
        for position, (name, kind) in enumerate(self._metrics):
            if not present >> position & 1:
                continue
            value = next(following)
            if name is not None:
                metrics[name] = int(value) if kind is MetricKind.CODE and value.is_integer() else value
        return self._class(device_id=device_id, time=time, **metrics)  # type: ignore[arg-type]
