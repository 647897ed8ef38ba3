"""Files to and from a platform: on this host's database, or over HTTP."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

from flux.errors import NotFoundError, UnavailableError
from flux.store import transfer
from flux.store.transfer import ExportReport, FileFormat, ImportReport, RejectedRow, RowSource

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Rejected = Callable[[RejectedRow], None]
Progress = Callable[[int, int], None]
_PART_ROWS = 20_000
"""Of an import: some 8 MB of a meter with every metric, and committed before the next is sent."""
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class WantedReadings:
    """Which readings; ``type``: bess or meter, None: both."""

    start: datetime
    end: datetime
    site: str | None = None
    device: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class WantedMarket:
    """Which market data; ``types``: names or numbers, none: all."""

    start: datetime
    end: datetime
    types: tuple[str, ...] = ()
    newest: bool = False


class Transfers(Protocol):
    """Files to and from a platform."""

    def export_readings(
        self, wanted: WantedReadings, target: Path, format: FileFormat, *, force: bool, progress: Progress | None
    ) -> ExportReport:
        """As :func:`flux.store.transfer.export_readings`."""

    def export_market(self, wanted: WantedMarket, target: Path, format: FileFormat, *, force: bool) -> ExportReport:
        """As :func:`flux.store.transfer.export_market`."""

    def import_readings(
        self,
        source: RowSource,
        *,
        device: str | None,
        zone: ZoneInfo | None,
        ignore_unknown: bool,
        rejected: Rejected,
        progress: Progress,
    ) -> ImportReport:
        """As :func:`flux.store.transfer.import_readings`; of a remote one ``spans`` stays empty."""

    def import_market(
        self, source: RowSource, *, zone: ZoneInfo | None, rejected: Rejected, progress: Progress
    ) -> ImportReport:
        """As :func:`flux.store.transfer.import_market`."""


class LocalTransfers:
    """On a database that this host reaches."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        from flux.store.db import connect

        async def run() -> T:
            async with await connect(self._dsn, application_name="flux cli", autocommit=True) as conn:
                return await work(conn)

        return asyncio.run(run())

    def export_readings(
        self, wanted: WantedReadings, target: Path, format: FileFormat, *, force: bool, progress: Progress | None
    ) -> ExportReport:
        from flux.registry import get_device

        async def work(conn: Any) -> ExportReport:
            one = None if wanted.device is None else (await get_device(conn, wanted.device)).id
            devices = await transfer.exported_devices(conn, site=wanted.site, device_id=one, type=wanted.type)
            if not devices:
                raise NotFoundError("no device is meant by these options: `flux devices list` shows what there is")
            return await transfer.export_readings(
                conn, target, devices, wanted.start, wanted.end, format=format, force=force, progress=progress
            )

        return self._run(work)

    def export_market(self, wanted: WantedMarket, target: Path, format: FileFormat, *, force: bool) -> ExportReport:
        from flux.store import market

        async def work(conn: Any) -> ExportReport:
            types = [(await market.data_type(conn, name)).id for name in wanted.types] or None
            return await transfer.export_market(
                conn, target, types, wanted.start, wanted.end, format=format, newest_only=wanted.newest, force=force
            )

        return self._run(work)

    def import_readings(
        self,
        source: RowSource,
        *,
        device: str | None,
        zone: ZoneInfo | None,
        ignore_unknown: bool,
        rejected: Rejected,
        progress: Progress,
    ) -> ImportReport:
        from flux.registry import get_device

        async def work(conn: Any) -> ImportReport:
            one = None if device is None else (await get_device(conn, device)).id
            return await transfer.import_readings(
                conn,
                source,
                device=one,
                zone=zone,
                ignore_unknown=ignore_unknown,
                rejected=rejected,
                progress=progress,
            )

        return self._run(work)

    def import_market(
        self, source: RowSource, *, zone: ZoneInfo | None, rejected: Rejected, progress: Progress
    ) -> ImportReport:
        async def work(conn: Any) -> ImportReport:
            return await transfer.import_market(conn, source, zone=zone, rejected=rejected, progress=progress)

        return self._run(work)


class RemoteTransfers:
    """Over HTTP. A file is sent in parts, each of them stored before the next: what broke off is just done again."""

    def __init__(self, client: "httpx.Client", url: str) -> None:
        self._client = client
        self._url = url

    def export_readings(
        self, wanted: WantedReadings, target: Path, format: FileFormat, *, force: bool, progress: Progress | None
    ) -> ExportReport:
        query = {"site": wanted.site, "device": wanted.device, "type": wanted.type}
        query |= {"start": wanted.start.isoformat(), "end": wanted.end.isoformat()}
        report = self._download("/v1/export/readings", query, target, format, force=force)
        if progress is not None:
            progress(report.devices, report.rows)
        return report

    def export_market(self, wanted: WantedMarket, target: Path, format: FileFormat, *, force: bool) -> ExportReport:
        query = {"type": list(wanted.types), "start": wanted.start.isoformat(), "end": wanted.end.isoformat()}
        query |= {"newest": "true"} if wanted.newest else {}
        return self._download("/v1/export/market", query, target, format, force=force)

    def import_readings(
        self,
        source: RowSource,
        *,
        device: str | None,
        zone: ZoneInfo | None,
        ignore_unknown: bool,
        rejected: Rejected,
        progress: Progress,
    ) -> ImportReport:
        query = {"device": device, "timezone": None if zone is None else zone.key}
        query |= {"ignore_unknown": "true"} if ignore_unknown else {}
        return self._upload("/v1/import/readings", query, source, rejected, progress)

    def import_market(
        self, source: RowSource, *, zone: ZoneInfo | None, rejected: Rejected, progress: Progress
    ) -> ImportReport:
        query = {"timezone": None if zone is None else zone.key}
        return self._upload("/v1/import/market", query, source, rejected, progress)

    def _download(
        self, path: str, query: Mapping[str, Any], target: Path, format: FileFormat, *, force: bool
    ) -> ExportReport:
        from flux.cli.remote import check, reached
        from flux.store.transfer.files import atomic_file, file_size

        given = {name: value for name, value in query.items() if value} | {"format": str(format)}
        with (
            atomic_file(target, force=force) as file,
            reached(self._url),
            self._client.stream("GET", path, params=given) as answer,
        ):
            if not answer.is_success:
                answer.read()
            check(answer, self._url)
            devices = int(answer.headers.get("X-Flux-Devices", 0))
            for piece in answer.iter_raw(_PIECE_BYTES):
                file.write(piece)
        return ExportReport(_rows_in(target, format), devices, file_size(target))

    def _upload(
        self, path: str, query: Mapping[str, Any], source: RowSource, rejected: Rejected, progress: Progress
    ) -> ImportReport:
        import gzip
        from itertools import islice

        from flux.cli.remote import check, reached

        report = ImportReport()
        given = {name: value for name, value in query.items() if value is not None}
        headers = {"Content-Type": "text/csv", "Content-Encoding": "gzip"}
        rows = source.rows()
        while (part := list(islice(rows, _PART_ROWS))) or report.rows == 0:
            body = gzip.compress(_csv(source.header, [fields for _, fields in part]), compresslevel=5)
            with reached(self._url):
                answer = self._client.post(path, params=given, content=body, headers=headers)
            check(answer, self._url)
            _add(report, answer.json(), part, rejected)
            progress(source.position(), report.rows)
            if not part:
                break
        return report


def _csv(header: Any, rows: list[Any]) -> bytes:
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in fields] or [""] for fields in rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """As CSV has it, read back to the same value: a float is as long as it needs to be. A row stays on one line."""
    if isinstance(value, str):
        return " ".join(value.splitlines()) if "\n" in value or "\r" in value else value
    return "" if value is None else value.isoformat() if isinstance(value, datetime) else value


def _add(report: ImportReport, told: Mapping[str, Any], part: list[Any], rejected: Rejected) -> None:
    """What became of one part; its rows are lines 2, 3, … of what was sent."""
    report.rows += told["rows"]
    report.stored += told["stored"]
    report.duplicates += told["duplicates"]
    report.rejected.update(told["rejected"])
    for one in told["not_stored"]:
        place = one["line"] - 2
        if not 0 <= place < len(part):
            raise UnavailableError(f"the platform tells of line {one['line']}, which was not sent; another version?")
        line, fields = part[place]
        rejected(RejectedRow(line, one["reason"], one["detail"], fields))


def _rows_in(file: Path, format: FileFormat) -> int:
    """How many rows a whole file has; of CSV, the lines below the heading."""
    if format is FileFormat.PARQUET:
        import pyarrow.parquet as pq

        rows: int = pq.ParquetFile(file).metadata.num_rows
        return rows
    with _opened(file, format) as stream:
        lines: int = sum(piece.count(b"\n") for piece in iter(lambda: stream.read(_PIECE_BYTES), b""))
    return lines - 1


@contextlib.contextmanager
def _opened(file: Path, format: FileFormat) -> Iterator[Any]:
    import gzip

    with gzip.open(file) if format is FileFormat.CSV_GZ else file.open("rb") as stream:
        yield stream
