"""How readings get into the database: binary COPY into a staging table, then one INSERT that skips what is there.

Whatever the database must refuse goes whole to ``rejected_readings``, with the reason, and the rest is stored::

    ingest(conn, [a, a, b with soe = NaN])  →  IngestResult(stored=1, duplicates=1, rejected=1)

A batch in which nothing is wrong pays for the checks with one small query; the costly questions (which rows are
impossible, which contradict what is stored) are asked only when the INSERT stored fewer rows than were sent.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus

from flux.model import BESS_METRICS, METER_METRICS, BessReading, MeterReading, Metric, MetricKind, Reading
from flux.store.migrate import possible
from flux.store.notes import note_added

_logger = structlog.get_logger(__name__)

FUTURE_TOLERANCE = timedelta(minutes=10)
"""How far a reading may be ahead of the database's clock; a clock that is further off is wrong."""
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Before this, a device's clock was never set."""

_TRIES = 5
_REAL_MAX = 3.4028235677973366e38  # beyond this a double rounds to an infinite real
_COPY_TYPES = {MetricKind.LEVEL: "float4", MetricKind.COUNTER: "float8", MetricKind.CODE: "int2"}
_PYTHON_REFUSES = (TypeError, ValueError, OverflowError, AttributeError, psycopg.DataError, psycopg.ProgrammingError)
"""What building a row raises when a reading holds something that is no value of its column."""


class Reason(StrEnum):
    """Why a reading was refused."""

    UNKNOWN_DEVICE = "unknown_device"
    WRONG_TYPE = "wrong_type"  # a meter's reading for a battery, or the other way round
    IMPOSSIBLE_VALUE = "impossible_value"
    IMPOSSIBLE_TIME = "impossible_time"
    CONFLICT = "conflict"  # another reading of that device and time is stored
    TOO_OLD = "too_old"  # retention has dropped the device's readings of that time


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the reading at ``index`` of a batch was refused; ``detail`` is for people."""

    index: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a batch; the three add up to its length."""

    stored: int
    duplicates: int
    rejected: int

    def __add__(self, other: "IngestResult") -> "IngestResult":
        return IngestResult(
            self.stored + other.stored, self.duplicates + other.duplicates, self.rejected + other.rejected
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reading and the statements that store it."""

    name: str
    reading_type: type[Reading]
    table: str
    staging: str
    metrics: tuple[Metric, ...]
    values: Callable[[Reading], tuple[Any, ...]]
    copy_types: tuple[str, ...]
    create_staging: sql.Composed
    copy: sql.Composed
    insert: sql.Composed
    insert_in_order: sql.Composed
    impossible: sql.Composed
    conflicts: sql.Composed


def _kind(name: str, reading_type: type[Reading], metrics: tuple[Metric, ...]) -> Kind:
    names = [metric.name for metric in metrics]
    table, staging = f"mg_{name}_readings", f"flux_staging_{name}"
    parts = {
        "table": sql.Identifier("flux", table),
        "staging": sql.Identifier(staging),
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "staged": sql.SQL(", ").join(sql.Identifier("s", n) for n in names),
        "stored": sql.SQL(", ").join(sql.Identifier("t", n) for n in names),
        "possible": sql.SQL(" AND ").join(map(possible, metrics)),
    }

    insert = """INSERT INTO {{table}} (time, device_id, {{columns}})
                SELECT time, device_id, {{columns}} FROM pg_temp.{{staging}} WHERE ({{possible}}) IS NOT FALSE {order}
                ON CONFLICT (device_id, time) DO NOTHING"""

    def statement(text: str) -> sql.Composed:
        return sql.SQL(text).format(**parts)

    return Kind(
        name=name,
        reading_type=reading_type,
        table=table,
        staging=staging,
        metrics=metrics,
        values=attrgetter("device_id", "time", *names),
        copy_types=("int4", "uuid", "timestamptz", *(_COPY_TYPES[metric.kind] for metric in metrics)),
        create_staging=statement(
            """CREATE TEMP TABLE IF NOT EXISTS {staging} ON COMMIT DELETE ROWS AS
               SELECT 0 AS n, device_id, time, {columns} FROM {table} WITH NO DATA"""
        ),
        copy=statement("COPY pg_temp.{staging} (n, device_id, time, {columns}) FROM STDIN (FORMAT binary)"),
        insert=statement(insert.format(order="")),
        insert_in_order=statement(insert.format(order="ORDER BY device_id, time, n")),
        impossible=statement("SELECT n FROM pg_temp.{staging} WHERE ({possible}) IS FALSE ORDER BY n"),
        # compared as stored: both sides have been rounded to the column's type; the bounds prune partitions
        conflicts=statement(
            """SELECT s.n FROM pg_temp.{staging} s JOIN {table} t ON t.device_id = s.device_id AND t.time = s.time
               WHERE t.time >= %(first)s AND t.time <= %(last)s
                 AND ROW({staged}) IS DISTINCT FROM ROW({stored})
                 AND s.n <> ALL(%(impossible)s) ORDER BY s.n"""
        ),
    )


KINDS = (_kind("meter", MeterReading, METER_METRICS), _kind("bess", BessReading, BESS_METRICS))
KIND_BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Readings of one kind with their places in what was sent."""

    kind: Kind
    places: Sequence[int]
    readings: Sequence[Reading]

    def without(self, rejections: Iterable[Rejection]) -> "_Batch":
        refused = {rejection.index for rejection in rejections}
        kept = [(i, r) for i, r in zip(self.places, self.readings, strict=True) if i not in refused]
        return _Batch(self.kind, [i for i, _ in kept], [r for _, r in kept])


async def ingest(conn: AsyncConnection[Any], readings: Sequence[Reading]) -> IngestResult:
    """Store a batch; refused readings are in ``rejected_readings`` when this returns. Sending it again changes nothing.

    ``conn`` must not be in a transaction: the batch is one of its own, all of it or nothing. Raises psycopg's errors
    when the database goes away; then nothing of the batch is stored.
    """
    result, _ = await store(conn, readings, record=True)
    return result


async def store(
    conn: AsyncConnection[Any], readings: Sequence[Reading], *, record: bool
) -> tuple[IngestResult, list[Rejection]]:
    """:func:`ingest`, telling as well which readings were refused; ``record`` False: without writing them down."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise RuntimeError("ingest commits a transaction of its own: it needs a connection that is not in one")
    if not readings:
        return IngestResult(0, 0, 0), []
    for attempt in range(1, _TRIES + 1):
        try:
            # in one order for all from the second try on: then they wait for each other in turn (sorting is not free)
            return await _store_once(conn, readings, record=record, in_order=attempt > 1)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
            # two senders of the same readings in another order; whoever was chosen to give way tries again
            if attempt == _TRIES:
                raise
            _logger.warning("ingest gave way to another session, tries again", error=type(error).__name__)
    raise AssertionError("unreachable")


async def _store_once(
    conn: AsyncConnection[Any], readings: Sequence[Reading], *, record: bool, in_order: bool
) -> tuple[IngestResult, list[Rejection]]:
    batches = _split(readings)
    rejections: list[Rejection] = []
    screened, missing = [], []
    async with conn.transaction():
        for batch in batches:
            refused = await _screen(conn, batch)
            rejections += refused
            screened.append(one := batch.without(refused) if refused else batch)
            times = [reading.time for reading in one.readings]
            if await _without_partition(conn, one.kind.table, times):
                missing.append((one.kind.table, times))
    for table, times in missing:
        await ensure_partitions(conn, table, times)
    try:
        return await _write(conn, readings, screened, rejections, record=record, in_order=in_order)
    except _PYTHON_REFUSES:
        refused = [r for batch in screened for r in _impossible_readings(batch)]
        if not refused:
            raise
        screened = [batch.without(refused) for batch in screened]
        return await _write(conn, readings, screened, rejections + refused, record=record, in_order=in_order)


def _split(readings: Sequence[Reading]) -> list[_Batch]:
    batches = []
    for kind in KINDS:
        places = [i for i, reading in enumerate(readings) if type(reading) is kind.reading_type]
        if places:
            same = len(places) == len(readings)
            batches.append(_Batch(kind, places, readings if same else [readings[i] for i in places]))
    if sum(len(batch.places) for batch in batches) != len(readings):
        raise TypeError("ingest takes MeterReading and BessReading only")
    return batches


@dataclass(frozen=True, slots=True)
class _Screen:
    """What can be told of a reading before anything is sent: is its device of this kind, is its time possible.

    ``strangers``: the devices of the batch that are not of this kind, with what they are (``None``: not registered).
    ``cuts``: of those whose older readings retention has dropped, from when on there are any.
    """

    kind: Kind
    strangers: dict[UUID, str | None]
    cuts: dict[UUID, datetime]
    latest: datetime

    def all_good(self, readings: Sequence[Reading]) -> bool:
        try:
            times = [reading.time for reading in readings]
            known = all(type(reading.device_id) is UUID for reading in readings)
            oldest = max([OLDEST, *self.cuts.values()])
            return known and not self.strangers and min(times) >= oldest and max(times) <= self.latest
        except TypeError:  # a time without a zone, or something that is no time at all: look at each
            return False

    def judge(self, place: int, reading: Reading) -> Rejection | None:
        time, device = reading.time, reading.device_id
        if not isinstance(time, datetime) or time.tzinfo is None:
            return Rejection(place, Reason.IMPOSSIBLE_TIME, f"time {time!r} is not a time with a zone")
        if time < OLDEST:
            return Rejection(place, Reason.IMPOSSIBLE_TIME, f"time {time.isoformat()} is before {OLDEST.date()}")
        if time > self.latest:
            ahead = f"more than {FUTURE_TOLERANCE.total_seconds() / 60:.0f} minutes in the future"
            return Rejection(place, Reason.IMPOSSIBLE_TIME, f"time {time.isoformat()} is {ahead}")
        if not isinstance(device, UUID):
            return Rejection(place, Reason.UNKNOWN_DEVICE, f"device_id {device!r} is not a UUID")
        if device in self.strangers:
            actual = self.strangers[device]
            if actual is None:
                return Rejection(place, Reason.UNKNOWN_DEVICE, f"no device has the id {device}")
            is_a = f"device {device} is a {actual}, the reading is of a {self.kind.name}"
            return Rejection(place, Reason.WRONG_TYPE, is_a)
        if device in self.cuts and time < self.cuts[device]:
            since = f"{self.cuts[device]:%Y-%m-%d}"
            detail = f"time {time.isoformat()} is before {since}: the device's readings of then were dropped"
            return Rejection(place, Reason.TOO_OLD, detail)
        return None


async def _screen(conn: AsyncConnection[Any], batch: _Batch) -> list[Rejection]:
    devices = {reading.device_id for reading in batch.readings if isinstance(reading.device_id, UUID)}
    cursor = await conn.execute(  # the database's clock is the one that all edges share
        """SELECT now(), found.* FROM (SELECT) always LEFT JOIN (
               SELECT sent.id, device.type, rollup.cut FROM unnest(%b::uuid[]) AS sent(id)
               LEFT JOIN flux.mg_device_registry device USING (id)
               LEFT JOIN flux.rollup_devices rollup ON rollup.device_id = sent.id
               WHERE device.type IS DISTINCT FROM %s OR rollup.cut IS NOT NULL) found ON true""",
        (list(devices), batch.kind.name),
    )
    rows = await cursor.fetchall()
    now, found = rows[0][0], [row[1:] for row in rows if row[1] is not None]
    strangers = {device: actual for device, actual, _ in found if actual != batch.kind.name}
    cuts = {device: cut for device, _, cut in found if cut is not None}
    screen = _Screen(batch.kind, strangers, cuts, now + FUTURE_TOLERANCE)
    if screen.all_good(batch.readings):
        return []
    judged = (screen.judge(place, reading) for place, reading in zip(batch.places, batch.readings, strict=True))
    return [rejection for rejection in judged if rejection is not None]


async def ensure_partitions(conn: AsyncConnection[Any], table: str, times: Sequence[datetime]) -> None:
    """Make what is missing, in a transaction of its own: it must not hold its locks while rows are copied."""
    if not times:
        return
    async with conn.transaction():
        for day in await _without_partition(conn, table, times):
            await conn.execute("SELECT flux.ensure_partitions(%s::regclass, %s, %s)", (f"flux.{table}", day, day))


async def _without_partition(conn: AsyncConnection[Any], table: str, times: Sequence[datetime]) -> list[datetime]:
    """A day of each partition that is missing."""
    if not times:
        return []
    cursor = await conn.execute(
        """SELECT min(d.day) FROM flux.time_series s, unnest(%s::timestamptz[]) AS d(day)
           WHERE s.table_name = %s AND s.engine = 'partitions'
           GROUP BY flux.partition_name(s.table_name, s.step, d.day)
           HAVING to_regclass('flux.' || flux.partition_name(s.table_name, s.step, d.day)) IS NULL""",
        (_days(times), table),
    )
    return [day for (day,) in await cursor.fetchall()]


def _days(times: Sequence[datetime]) -> list[datetime]:
    """The UTC days that the times are in: enough to tell their partitions."""
    first, last = ((t - OLDEST).days for t in (min(times), max(times)))
    days = {first} if first == last else {(t - OLDEST).days for t in times}
    return [OLDEST + timedelta(days=day) for day in sorted(days)]


async def _write(
    conn: AsyncConnection[Any],
    readings: Sequence[Reading],
    batches: Sequence[_Batch],
    refused: list[Rejection],
    *,
    record: bool,
    in_order: bool,
) -> tuple[IngestResult, list[Rejection]]:
    """The one transaction that stores a batch and what was refused of it."""
    rejections = list(refused)
    stored = 0
    async with conn.transaction():
        for batch in batches:
            if batch.readings:
                inserted, found = await _write_kind(conn, batch, in_order=in_order)
                stored += inserted
                rejections += found
        if record and rejections:
            await _record(conn, readings, rejections)
    duplicates = len(readings) - stored - len(rejections)
    return IngestResult(stored, duplicates, len(rejections)), rejections


async def _write_kind(conn: AsyncConnection[Any], batch: _Batch, *, in_order: bool) -> tuple[int, list[Rejection]]:
    kind = batch.kind
    async with conn.cursor() as cursor:
        await cursor.execute(kind.create_staging)
        async with cursor.copy(kind.copy) as copy:
            copy.set_types(kind.copy_types)
            values, write_row = kind.values, copy.write_row
            for place, reading in zip(batch.places, batch.readings, strict=True):
                await write_row((place, *values(reading)))
        await cursor.execute(kind.insert_in_order if in_order else kind.insert)
        inserted = cursor.rowcount
        if inserted:
            await note_added(cursor, kind.table, kind.name, kind.staging)
        if inserted == len(batch.readings):
            return inserted, []
        return inserted, await _explain(cursor, batch)


async def _explain(cursor: psycopg.AsyncCursor[Any], batch: _Batch) -> list[Rejection]:
    """Why fewer rows were stored than sent: impossible values and conflicts; what is left are duplicates."""
    by_place = dict(zip(batch.places, batch.readings, strict=True))
    await cursor.execute(batch.kind.impossible)
    impossible = [place for (place,) in await cursor.fetchall()]
    times = [reading.time for reading in batch.readings]
    bounds = {"first": min(times), "last": max(times), "impossible": impossible}
    await cursor.execute(batch.kind.conflicts, bounds)
    conflicts = [place for (place,) in await cursor.fetchall()]
    return [
        *(
            Rejection(place, Reason.IMPOSSIBLE_VALUE, impossible_value(by_place[place]) or "a value is out of range")
            for place in impossible
        ),
        *(
            Rejection(place, Reason.CONFLICT, "another reading of this device and time is stored")
            for place in conflicts
        ),
    ]


def _impossible_readings(batch: _Batch) -> list[Rejection]:
    found = ((place, impossible_value(r)) for place, r in zip(batch.places, batch.readings, strict=True))
    return [Rejection(place, Reason.IMPOSSIBLE_VALUE, detail) for place, detail in found if detail is not None]


def impossible_value(reading: Reading) -> str | None:
    """Which value of a reading can't be true and why; ``None``: all can. The same rules as the tables' CHECKs."""
    for metric in KINDS[0 if isinstance(reading, MeterReading) else 1].metrics:
        value = getattr(reading, metric.name)
        if value is not None and (wrong := _wrong(metric, value)) is not None:
            return f"{metric.name} = {value!r}: {wrong}"
    return None


def _wrong(metric: Metric, value: object) -> str | None:
    if metric.kind is MetricKind.CODE:
        fits = type(value) is int and 0 <= value <= 32767
        return None if fits else "must be a whole number from 0 to 32767"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is not a number"
    if not _finite(value) or (metric.kind is MetricKind.LEVEL and abs(value) >= _REAL_MAX):
        return "is not a finite number"
    if metric.name == "soe" and not -0.5 <= value <= 100.5:
        return "must be from 0 to 100 %"
    if metric.kind is MetricKind.COUNTER and value < 0:
        return "a counter is never negative"
    return None


def _finite(value: int | float) -> bool:
    """Whether a double can hold it."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def payload_of(reading: Reading) -> dict[str, Any]:
    """The whole reading as JSON can hold it; NaN and Infinity, and what is no number, as text."""
    kind = KINDS[0 if isinstance(reading, MeterReading) else 1]
    time = reading.time.isoformat() if isinstance(reading.time, datetime) else repr(reading.time)
    payload: dict[str, Any] = {"device_id": _text(reading.device_id), "time": time}
    for metric in kind.metrics:
        value = getattr(reading, metric.name)
        if value is not None:
            usable = isinstance(value, int | float) and _finite(value)
            payload[metric.name] = value if usable else _text(value)
    return payload


def _text(value: object) -> str:
    """As text that jsonb takes: NUL and halves of surrogate pairs are written out, as Python would."""
    text = str(value)
    return text if text.isprintable() else ascii(text)


async def _record(conn: AsyncConnection[Any], readings: Sequence[Reading], rejections: Sequence[Rejection]) -> None:
    """Keep refused readings whole; one that was kept before, for the same reason, is not kept again."""
    rows = [(readings[rejection.index], rejection) for rejection in rejections]
    cursor = await conn.execute(
        """INSERT INTO flux.rejected_readings (kind, device_id, time, reason, detail, payload)
           SELECT * FROM unnest(%s::text[], %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::jsonb[])
           ON CONFLICT ON CONSTRAINT rejected_readings_once DO NOTHING""",
        (
            ["meter" if isinstance(reading, MeterReading) else "bess" for reading, _ in rows],
            [reading.device_id if isinstance(reading.device_id, UUID) else None for reading, _ in rows],
            [_zoned(reading.time) for reading, _ in rows],
            [rejection.reason.value for _, rejection in rows],
            [rejection.detail for _, rejection in rows],
            [json.dumps(payload_of(reading)) for reading, _ in rows],
        ),
    )
    if cursor.rowcount == 0:
        return
    reasons = sorted({rejection.reason.value for rejection in rejections})
    _logger.warning("readings refused", count=cursor.rowcount, reasons=reasons, first=rejections[0].detail)


def _zoned(time: datetime) -> datetime | None:
    """In UTC; ``None`` for what is no instant, or one that only its own zone has a date for (year 10,000)."""
    try:
        return time.astimezone(UTC) if isinstance(time, datetime) and time.tzinfo is not None else None
    except OverflowError:
        return None
