"""A batch of what an edge recorded, as bytes for a wire: compact and exact, or JSON lines that anybody can write.

Compact (``application/vnd.flux.records``): the magic ``FLX1``, the length of a JSON header and the header, whose
``layouts`` say what the numbers of the readings mean (:mod:`flux.store.encoding`), then each record with its length
before it. Lengths are 32-bit, little-endian.

Lines (``application/x-ndjson``): a JSON object a line, ``kind`` first among equals::

    {"kind": "meter", "device_id": "6a1e…", "time": "2026-01-15T17:00:00Z", "power_total_active": 12.5}
    {"kind": "bess", "device_id": "91c0…", "time": "2026-01-15T17:00:00Z", "soe": 48.2}

with ``decision``, ``plan`` and ``health`` as they stand in the outbox. A batch is read whole or refused whole with a
BatchError: what can't be read must stay where it is until somebody can.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from flux.errors import InputError
from flux.model import DeviceId, MetricKind, Reading, metrics_of
from flux.store.encoding import READING_CLASSES, Layout, RecordCodec, Recorded, current_layouts, document_from_json

COMPACT = "application/vnd.flux.records"
LINES = "application/x-ndjson"
_MAGIC = b"FLX1"
_LENGTH = struct.Struct("<I")


class BatchError(InputError):
    """A batch that can't be read; nothing of it was stored."""


def encode_batch(records: Sequence[Recorded]) -> bytes:
    """``records`` as compact bytes."""
    layouts = dict(enumerate(current_layouts(), start=1))
    codec = RecordCodec(layouts)
    header = json.dumps({"layouts": {number: json.loads(layout.to_json()) for number, layout in layouts.items()}})
    parts = [_MAGIC, *_sized(header.encode())]
    for record in records:
        parts.extend(_sized(codec.encode(record)))
    return b"".join(parts)


def decode_batch(data: bytes) -> list[Recorded]:
    """What :func:`encode_batch` was given; BatchError for what is no batch."""
    if not data.startswith(_MAGIC):
        raise BatchError(f"not a batch of records: it does not begin with {_MAGIC.decode()}")
    parts = _parts(data, len(_MAGIC))
    try:
        header = json.loads(next(parts))
        codec = RecordCodec({int(number): _layout(body) for number, body in header["layouts"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise BatchError(f"the header of the batch can't be read: {type(error).__name__}: {error}") from None
    return [_decoded(codec, number, part) for number, part in enumerate(parts)]


def decode_lines(data: bytes) -> list[Recorded]:
    """The records of JSON lines; empty lines are passed over. BatchError names the line that can't be read."""
    records = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
            records.append(_of_line(body))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BatchError(f"line {number} can't be read: {_said(error)}") from None
    return records


def _sized(part: bytes) -> tuple[bytes, bytes]:
    return _LENGTH.pack(len(part)), part


def _parts(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if end > len(data):
            raise BatchError("the batch ends in the middle of a record")
        yield data[start:end]
        at = end


def _layout(body: Mapping[str, Any]) -> Layout:
    layout = Layout(body["kind"], tuple(body["metrics"]))
    if layout.kind not in READING_CLASSES:
        raise ValueError(f"there are no readings of kind {layout.kind!r} here; a newer version may have them")
    return layout


def _decoded(codec: RecordCodec, number: int, part: bytes) -> Recorded:
    try:
        return codec.decode(part)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BatchError(f"record {number} of the batch can't be read: {error}") from None


def _of_line(body: Any) -> Recorded:
    if not isinstance(body, dict):
        raise TypeError("a record is an object")
    kind = body.get("kind")
    if isinstance(kind, str) and kind in READING_CLASSES:
        return _reading(READING_CLASSES[kind], body)
    if kind not in ("decision", "plan", "health"):
        raise ValueError(f"kind {kind!r}: it is meter, bess, decision, plan or health")
    return document_from_json(body)


def _reading(cls: type[Reading], body: Mapping[str, Any]) -> Reading:
    time = datetime.fromisoformat(body["time"])
    if time.tzinfo is None:
        raise ValueError(f"time {body['time']}: it needs its offset, like 2026-01-15T17:00:00Z")
    kinds = {metric.name: metric.kind for metric in metrics_of(cls)}
    unknown = body.keys() - kinds.keys() - {"kind", "device_id", "time"}
    if unknown:
        raise ValueError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    values = {name: _value(name, body[name], kind) for name, kind in kinds.items() if body.get(name) is not None}
    return cls(device_id=DeviceId(UUID(body["device_id"])), time=time, **values)  # type: ignore[arg-type]


def _value(name: str, value: Any, kind: MetricKind) -> float | int:
    """A number as it came; whether it is possible is for the one who stores it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} = {value!r}: is not a number")
    if kind is MetricKind.CODE:
        return int(value) if float(value).is_integer() else value
    return float(value)


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
