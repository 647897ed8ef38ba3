"""Market data into a file and back: every value that was known, and since when, or the newest ones only.

Columns: time, type (its name), value in the type's unit, site (empty: all sites), known_at, metadata (JSON).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection, sql

from flux.errors import InputError
from flux.model import MarketValue
from flux.store.market import data_types, upsert
from flux.store.transfer.columns import WRONG_SHAPE, RowError, parse_time
from flux.store.transfer.export import ISO_TIME, ExportReport
from flux.store.transfer.files import ColumnType, FileColumn, FileFormat, Outlet, file_size, open_sink, sink_on
from flux.store.transfer.importing import ImportReport, RejectedRow
from flux.store.transfer.rows import Row, RowSource

_BATCH_ROWS = 5000
_PIECE_BYTES = 64 * 1024
_COLUMNS = (
    FileColumn("time", ColumnType.TIME),
    FileColumn("type", ColumnType.TEXT),
    FileColumn("value", ColumnType.DOUBLE),
    FileColumn("site", ColumnType.TEXT),
    FileColumn("known_at", ColumnType.TIME),
    FileColumn("metadata", ColumnType.TEXT),
)
# a value that was stated again is needed to place one that arrives late between the two
_EVERY_STATEMENT = """SELECT h.type, h.time, h.value, h.site, s.known_at, h.metadata
                      FROM flux.market_data_history h, unnest(h.known_at || h.repeated_at) AS s(known_at)"""
_NEEDED = ("time", "type", "value")


async def export_market(
    conn: AsyncConnection[Any],
    target: Path,
    types: Sequence[int] | None,
    since: datetime,
    until: datetime,
    *,
    format: FileFormat,
    newest_only: bool = False,
    force: bool = False,
) -> ExportReport:
    """Write the values about since ≤ time < until, by type, site, time and ``known_at``; ``types`` None: all.

    A value that a source stated again is there again, with when.

    Raises as :func:`~flux.store.transfer.files.open_sink`; after any error no file is left.
    """
    rows = 0
    with open_sink(target, format, _COLUMNS, force=force) as sink:
        async for line in _lines(conn, types, since, until, newest_only=newest_only):
            sink.write(line)
            rows += 1
    return ExportReport(rows, 0, file_size(target))


async def stream_market(
    conn: AsyncConnection[Any],
    types: Sequence[int] | None,
    since: datetime,
    until: datetime,
    *,
    format: FileFormat,
    newest_only: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The file of :func:`export_market`, in pieces as they come; it is whole when this has ended without an error."""
    outlet = Outlet()
    with sink_on(outlet, format, _COLUMNS) as sink:
        async for line in _lines(conn, types, since, until, newest_only=newest_only):
            sink.write(line)
            if outlet.waiting >= _PIECE_BYTES:
                yield outlet.take()
    yield outlet.take()


async def _lines(
    conn: AsyncConnection[Any], types: Sequence[int] | None, since: datetime, until: datetime, *, newest_only: bool
) -> AsyncIterator[bytes]:
    query = sql.SQL(
        """COPY (SELECT {time}, t.name, d.value, d.site, {known_at}, d.metadata::text
                 FROM ({statements}) d JOIN flux.market_data_types t ON t.id = d.type
                 WHERE d.time >= %(since)s AND d.time < %(until)s
                   AND (%(types)s::integer[] IS NULL OR d.type = ANY(%(types)s::integer[]))
                 ORDER BY d.type, d.site NULLS FIRST, d.time, d.known_at) TO STDOUT (FORMAT csv)"""
    ).format(
        time=sql.SQL(ISO_TIME).format(sql.Identifier("d", "time")),
        known_at=sql.SQL(ISO_TIME).format(sql.Identifier("d", "known_at")),
        statements=sql.SQL("TABLE flux.market_data" if newest_only else _EVERY_STATEMENT),
    )
    parameters = {"since": since, "until": until, "types": None if types is None else list(types)}
    async with conn.cursor() as cursor, cursor.copy(query, parameters) as copy:
        async for line in copy:
            yield bytes(line)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes values of rows; ``types``: id by name and by number."""

    places: dict[str, int]
    width: int
    types: dict[str, int]
    sites: frozenset[str]
    zone: ZoneInfo | None

    def value(self, fields: Sequence[Any]) -> MarketValue:
        """Raises RowError."""
        if len(fields) != self.width:
            raise RowError(WRONG_SHAPE, f"has {len(fields)} fields, the header {self.width}")
        kind, site = str(self._field(fields, "type") or ""), self._field(fields, "site")
        if kind not in self.types:
            raise RowError("unknown_type", f"there is no market data type {kind!r}; `flux market types add` makes one")
        if site is not None and str(site) not in self.sites:
            raise RowError("unknown_site", f"there is no site {site!r}; a site appears with its first device")
        known_at = self._field(fields, "known_at")
        return MarketValue(
            type=self.types[kind],
            time=parse_time(self._field(fields, "time"), self.zone),
            value=self._number(fields),
            site=None if site is None else str(site),
            known_at=None if known_at is None else parse_time(known_at, self.zone),
            metadata=self._metadata(fields),
        )

    def _field(self, fields: Sequence[Any], name: str) -> Any:
        place = self.places.get(name)
        value = None if place is None else fields[place]
        return None if value is None or value == "" else value

    def _number(self, fields: Sequence[Any]) -> float:
        text = self._field(fields, "value")
        try:
            return float(text)
        except (TypeError, ValueError, OverflowError):
            problem = "has no value" if text is None else f"value {text!r} is not a number"
            raise RowError("impossible_value", problem) from None

    def _metadata(self, fields: Sequence[Any]) -> dict[str, Any]:
        text = self._field(fields, "metadata")
        try:
            metadata = {} if text is None else json.loads(text)
        except (TypeError, ValueError):
            metadata = None
        if not isinstance(metadata, dict):
            raise RowError("impossible_value", f"metadata {text!r} is not a JSON object")
        return metadata


async def import_market(
    conn: AsyncConnection[Any],
    source: RowSource,
    *,
    zone: ZoneInfo | None = None,
    rejected: Callable[[RejectedRow], None],
    progress: Callable[[int, int], None],
) -> ImportReport:
    """Store the values of a file, in batches of 5,000; again changes nothing.

    A value without ``known_at`` is known since now. Raises InputError for a header that cannot be understood.
    """
    reader = await _reader(conn, source, zone)
    report = ImportReport()
    rows = source.rows()
    while (batch := await asyncio.to_thread(_read_batch, rows, reader)).rows:
        refused = await _store(conn, batch, report)
        report.rows += batch.rows
        for row in sorted(refused, key=lambda row: row.line):
            report.rejected[row.reason] += 1
            rejected(row)
        progress(source.position(), report.rows)
    return report


async def _reader(conn: AsyncConnection[Any], source: RowSource, zone: ZoneInfo | None) -> _Reader:
    names = [name.strip().lower() for name in source.header]
    known = {column.name for column in _COLUMNS}
    for name in names:
        if name not in known and not name.startswith("rejected_"):
            raise InputError(f"column {name!r} is not known; there are {', '.join(c.name for c in _COLUMNS)}")
    if missing := [name for name in _NEEDED if name not in names]:
        raise InputError(f"no column is called {missing[0]}; `flux market export` writes such files")
    kinds = await data_types(conn)
    cursor = await conn.execute("SELECT site FROM flux.sites")
    sites = frozenset(site for (site,) in await cursor.fetchall())
    types = {key: one.id for one in kinds for key in (one.name, str(one.id))}
    return _Reader({name: place for place, name in enumerate(names)}, len(names), types, sites, zone)


@dataclass(slots=True)
class _Batch:
    """``rows`` in number; those that became values, and those that did not."""

    rows: int
    values: list[tuple[Row, MarketValue]] = field(default_factory=list)
    refused: list[RejectedRow] = field(default_factory=list)


def _read_batch(rows: Iterator[Row], reader: _Reader) -> _Batch:
    taken = list(islice(rows, _BATCH_ROWS))
    batch = _Batch(len(taken))
    for row in taken:
        try:
            batch.values.append((row, reader.value(row[1])))
        except RowError as error:
            batch.refused.append(RejectedRow(row[0], error.reason, error.detail, row[1]))
    return batch


async def _store(conn: AsyncConnection[Any], batch: _Batch, report: ImportReport) -> list[RejectedRow]:
    values, refused = batch.values, list(batch.refused)
    try:
        result = await upsert(conn, [value for _, value in values])
        written, wrong = result.written, result.conflicts > 0
    except InputError:  # one of them, and nothing is stored: which one is found below
        written, wrong = 0, True
    if wrong:
        one_by_one, found = await _one_by_one(conn, values)
        written += one_by_one
        refused += found
    report.stored += written
    report.duplicates += batch.rows - written - len(refused)
    return refused


async def _one_by_one(
    conn: AsyncConnection[Any], values: Sequence[tuple[Row, MarketValue]]
) -> tuple[int, list[RejectedRow]]:
    """Which rows are refused or in conflict; the others are stored, or are known by now."""
    written, refused = 0, []
    for (line, fields), value in values:
        try:
            result = await upsert(conn, [value])
        except InputError as error:
            refused.append(RejectedRow(line, "impossible_value", str(error), fields))
            continue
        written += result.written
        if result.conflicts:
            refused.append(RejectedRow(line, "conflict", "another value is stored for this known_at", fields))
    return written, refused
