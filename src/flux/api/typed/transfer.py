"""Whole files over HTTP: readings and market data as CSV or Parquet, streaming out, and in within the limit of a body.

An export that fails on the way breaks off, so that no client takes it for whole. An import is idempotent: what was
stored before is counted, and what was not stored is told by line.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from psycopg import AsyncConnection
from starlette.types import Message, Receive, Scope, Send

from flux import registry
from flux.api.database import session_as_caller
from flux.api.identity import Role
from flux.api.typed.operation import Instant, Name, OfSite, Text
from flux.api.typed.problems import documented
from flux.api.typed.router import key_schemes, permitted
from flux.errors import InputError, NotFoundError
from flux.model import DeviceType
from flux.store import market, transfer
from flux.store.ingest import OLDEST
from flux.store.transfer import FileFormat, ImportReport, RejectedRow, RowSource

_TAG = "Import and export"
_MEDIA = {
    FileFormat.CSV: "text/csv; charset=utf-8",
    FileFormat.CSV_GZ: "application/gzip",
    FileFormat.PARQUET: "application/vnd.apache.parquet",
}
_MOST_TOLD = 10_000
_TIMEOUT_MS = 3_600_000
_logger = structlog.get_logger(__name__)
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
Start = Annotated[Instant | None, Query(description="From then on; all there is if not given.")]
End = Annotated[Instant | None, Query(description="Until then, not included.")]
Zone = Annotated[Text | None, Query(description="IANA zone of times without an offset, e.g. Europe/London.")]
Work = Callable[[AsyncConnection[Any], RowSource, Callable[[RejectedRow], None]], Awaitable[ImportReport]]
_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("text/csv", *_MEDIA.values())
        },
    }
}


@dataclass(frozen=True, slots=True)
class NotStored:
    """A row that was not stored; ``line``: of a Parquet file, its row."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file; stored, duplicates and the rejected by reason add up to ``rows``.

    ``not_stored``: the first 10,000 of the rejected; ``left_out``: how many more there are.
    """

    rows: int
    stored: int
    duplicates: int
    rejected: dict[str, int]
    not_stored: list[NotStored]
    left_out: int


def transfer_router() -> APIRouter:
    """Import and export."""
    router = APIRouter(prefix="/v1", tags=[_TAG], dependencies=key_schemes())
    files = {200: {"content": {kind: {"schema": {"type": "string"}} for kind in _MEDIA.values()}}}
    add: dict[str, Any] = {"responses": documented(404) | files, "response_class": StreamingResponse}
    router.add_api_route("/export/readings", export_readings, methods=["GET"], **add)
    router.add_api_route("/export/market", export_market, methods=["GET"], **add)
    receive: dict[str, Any] = {"responses": documented(404), "openapi_extra": _FILE}
    router.add_api_route("/import/readings", import_readings, methods=["POST"], **receive)
    router.add_api_route("/import/market", import_market, methods=["POST"], **receive)
    return router


async def export_readings(
    request: Request,
    format: FileFormat = FileFormat.CSV,
    site: OfSite = None,
    device: Name | None = None,
    type: DeviceType | None = None,
    start: Start = None,
    end: End = None,
) -> StreamingResponse:
    """Export readings

    A row for each reading, in the order of devices and times: exact, and as it all was at one moment.
    """
    since, until = start or OLDEST, end or request.app.state.clock() + timedelta(days=1)
    _check_span(since, until)

    async def pieces(conn: AsyncConnection[Any]) -> AsyncGenerator[bytes, None]:
        one = None if device is None else (await registry.get_device(conn, device)).id
        devices = await transfer.exported_devices(conn, site=site, device_id=one, type=type)
        if not devices:
            raise NotFoundError("no device is meant by these options: `flux devices list` shows what there is")
        yield str(len(devices)).encode()
        async for piece in transfer.stream_readings(conn, devices, since, until, format=format):
            yield piece

    return await _streamed(request, pieces, format)


async def export_market(
    request: Request,
    format: FileFormat = FileFormat.CSV,
    type: Annotated[list[Text] | None, Query(description="Only these: names or numbers.")] = None,
    start: Start = None,
    end: End = None,
    newest: Annotated[bool, Query(description="Only the newest value of each, not what was known before.")] = False,
) -> StreamingResponse:
    """Export market data

    Every value that was known, and since when; or the newest ones only.
    """
    since, until = start or _FIRST, end or _LAST
    _check_span(since, until)

    async def pieces(conn: AsyncConnection[Any]) -> AsyncGenerator[bytes, None]:
        types = [(await market.data_type(conn, name)).id for name in type or []] or None
        yield b"0"
        async for piece in transfer.stream_market(conn, types, since, until, format=format, newest_only=newest):
            yield piece

    return await _streamed(request, pieces, format)


async def import_readings(
    request: Request,
    device: Annotated[Name | None, Query(description="For a file that has no device column.")] = None,
    timezone: Zone = None,
    ignore_unknown: Annotated[bool, Query(description="Pass over columns that are not known.")] = False,
) -> Imported:
    """Import readings

    CSV (plain or gzip) or Parquet: time, device or device_id, and metrics. Doing it again changes nothing. Batches of
    5,000 rows are committed one by one. Needs a key of role service.
    """
    zone, sites = zone_of(timezone), permitted(request, Role.SERVICE).sites

    async def work(
        conn: AsyncConnection[Any], source: RowSource, rejected: Callable[[RejectedRow], None]
    ) -> ImportReport:
        one = None if device is None else (await registry.get_device(conn, device)).id
        return await transfer.import_readings(
            conn,
            source,
            device=one,
            zone=zone,
            ignore_unknown=ignore_unknown,
            keep_strangers=sites is None,
            rejected=rejected,
            progress=_unseen,
        )

    return await _imported(request, work)


async def import_market(request: Request, timezone: Zone = None) -> Imported:
    """Import market data

    CSV or Parquet as the export writes it: time, type, value; and site, known_at, metadata where there are any. Doing
    it again changes nothing. Needs a key of role service.
    """
    zone = zone_of(timezone)

    async def work(
        conn: AsyncConnection[Any], source: RowSource, rejected: Callable[[RejectedRow], None]
    ) -> ImportReport:
        return await transfer.import_market(conn, source, zone=zone, rejected=rejected, progress=_unseen)

    return await _imported(request, work)


class _Streamed(StreamingResponse):
    """Ends what it streams however it ends itself: the connection behind it goes back to the pool at once."""

    stalled_s = 60.0
    """How long a client may take no further piece."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            async with asyncio.timeout(self.stalled_s):  # who does not read keeps no connection of the database
                await send(message)

        try:
            async with aclosing(self._pieces):
                await super().__call__(scope, receive, sending)
        except* TimeoutError:  # the answer is not whole, so that the server cuts it off
            _logger.warning("an export was given up: its client does not read", path=scope["path"])


async def _streamed(
    request: Request, pieces: Callable[[AsyncConnection[Any]], AsyncGenerator[bytes, None]], format: FileFormat
) -> StreamingResponse:
    """``pieces``: first how many devices it is of, then the file. What fails before the file begins is an error."""
    identity = permitted(request, Role.AUTHENTICATED)
    session = session_as_caller(request.app.state.pool, identity, timeout_ms=_TIMEOUT_MS)

    async def run() -> AsyncGenerator[bytes, None]:
        async with session as conn, aclosing(pieces(conn)) as told:
            async for piece in told:
                yield piece

    running = run()
    headers = {"X-Flux-Devices": (await anext(running)).decode()}
    return _Streamed(running, _MEDIA[format], headers)


async def _imported(request: Request, work: Work) -> Imported:
    identity = permitted(request, Role.SERVICE)
    told: list[NotStored] = []
    count: Counter[str] = Counter()

    def rejected(row: RejectedRow) -> None:
        count[row.reason] += 1
        if len(told) < _MOST_TOLD:
            told.append(NotStored(row.line, row.reason, row.detail))

    with tempfile.TemporaryDirectory(prefix="flux-import-") as folder:
        file = Path(folder) / "body"
        with file.open("wb") as stream:
            async for piece in request.stream():
                stream.write(piece)
        try:
            with transfer.open_rows(file) as source:
                session = session_as_caller(
                    request.app.state.pool, identity, timeout_ms=_TIMEOUT_MS, request_id=request.state.request_id
                )
                async with session as conn:
                    report = await work(conn, source, rejected)
        except InputError as error:
            raise InputError(str(error).replace(str(file), "the body")) from None
    return Imported(report.rows, report.stored, report.duplicates, dict(count), told, sum(count.values()) - len(told))


def zone_of(name: str | None) -> ZoneInfo | None:
    """InputError for a zone that there is not."""
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"timezone {name!r}: not an IANA zone; write it like Europe/London") from None


def _check_span(since: datetime, until: datetime) -> None:
    if since >= until:
        raise InputError(f"start {since.isoformat()} must be before end {until.isoformat()}")


def _unseen(_done: int, _rows: int) -> None:
    """Nobody watches."""
