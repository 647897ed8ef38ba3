"""Readings from a file into the database, by the way that all readings go: the same checks, duplicates free.

What ingest refuses is in ``rejected_readings`` afterwards, as always; rows that could not even become a reading are
told to the caller only. Both come with the number of their line.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from flux.model import Reading
from flux.store.ingest import store
from flux.store.transfer.columns import KnownDevices, RowError, RowReader, read_header
from flux.store.transfer.rows import Row, RowSource

_BATCH_ROWS = 5000


class RejectedRow(NamedTuple):
    """A row that was not stored; ``line``: of a Parquet file, its row."""

    line: int
    reason: str
    detail: str
    fields: Sequence[Any]


@dataclass(slots=True)
class ImportReport:
    """What became of the rows so far; stored, duplicates and rejected add up to ``rows``."""

    rows: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    spans: dict[UUID, tuple[datetime, datetime]] = field(default_factory=dict)
    """Of each device whose readings were taken (stored now or before): the first and the last time."""


async def known_devices(conn: AsyncConnection[Any]) -> KnownDevices:
    """The registry as it is now."""
    cursor = await conn.execute("SELECT id, name, type, state FROM flux.mg_device_registry")
    rows = await cursor.fetchall()
    return KnownDevices(
        types={identity: kind for identity, _, kind, _ in rows},
        names={name: identity for identity, name, _, state in rows if state != "decommissioned"},
    )


async def import_readings(
    conn: AsyncConnection[Any],
    source: RowSource,
    *,
    device: UUID | None = None,
    zone: ZoneInfo | None = None,
    ignore_unknown: bool = False,
    keep_strangers: bool = True,
    rejected: Callable[[RejectedRow], None],
    progress: Callable[[int, int], None],
) -> ImportReport:
    """Store the readings of a file; again changes nothing. Batches of 5,000 rows are committed one by one.

    ``keep_strangers`` False: readings of a device that is not known to ``conn`` are not kept among those refused, from
    where somebody else could store them later.

    ``rejected`` is told every row that was not stored, ``progress`` after each batch the position in the file and the
    rows so far. ``conn`` must not be in a transaction. Raises InputError for a header that cannot be understood or a
    damaged file; the batches before the damage are stored then.
    """
    layout = read_header(source.header, device_given=device is not None, ignore_unknown=ignore_unknown)
    reader = RowReader(layout, await known_devices(conn), device, zone, keep_strangers)
    report = ImportReport()
    rows = source.rows()
    # in a thread: 5,000 rows take a few hundred milliseconds, and a server has others to answer
    while (batch := await asyncio.to_thread(_read_batch, rows, reader)).rows:
        await _import_batch(conn, batch, report, rejected)
        progress(source.position(), report.rows)
    return report


@dataclass(slots=True)
class _Batch:
    """``rows`` in number; those that became readings, each with its row beside it, and those that did not."""

    rows: int
    readings: list[Reading] = field(default_factory=list)
    origins: list[Row] = field(default_factory=list)
    refused: list[RejectedRow] = field(default_factory=list)


def _read_batch(rows: Iterator[Row], reader: RowReader) -> _Batch:
    taken = list(islice(rows, _BATCH_ROWS))
    batch = _Batch(len(taken))
    for line, fields in taken:
        try:
            batch.readings.append(reader.reading(fields))
            batch.origins.append((line, fields))
        except RowError as error:
            batch.refused.append(RejectedRow(line, error.reason, error.detail, fields))
    return batch


async def _import_batch(
    conn: AsyncConnection[Any], batch: _Batch, report: ImportReport, rejected: Callable[[RejectedRow], None]
) -> None:
    readings, origins = batch.readings, batch.origins
    result, rejections = await store(conn, readings, record=True)
    found = [RejectedRow(origins[r.index][0], r.reason, r.detail, origins[r.index][1]) for r in rejections]
    report.rows += batch.rows
    report.stored += result.stored
    report.duplicates += result.duplicates
    _widen(report.spans, readings, {rejection.index for rejection in rejections})
    for row in sorted([*batch.refused, *found], key=lambda row: row.line):
        report.rejected[row.reason] += 1
        rejected(row)


def _widen(spans: dict[UUID, tuple[datetime, datetime]], readings: Sequence[Reading], refused: set[int]) -> None:
    for index, reading in enumerate(readings):
        if index not in refused:
            time = reading.time
            first, last = spans.get(reading.device_id, (time, time))
            spans[reading.device_id] = (min(first, time), max(last, time))
