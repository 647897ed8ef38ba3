"""Writing files of rows. What PostgreSQL's COPY sends as CSV goes into them; a file appears when it is whole::

    with open_sink(Path("day.parquet"), FileFormat.PARQUET, columns) as sink:
        sink.write(b"2026-01-15T12:00:00.000000Z,WLCE-GRID-METER,50.1\\n")

Memory does not grow with the rows: CSV is passed on, Parquet is written in row groups of a few megabytes of text.
"""

import gzip
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol

from flux.errors import ConflictError, InputError, UnavailableError

_ROW_GROUP_BYTES = 8 * 2**20
"""Text that becomes one row group: some 40,000 readings of a meter."""
_GZIP_LEVEL = 6


class FileFormat(StrEnum):
    """What a file of rows is written as."""

    CSV = "csv"
    CSV_GZ = "csv.gz"
    PARQUET = "parquet"


class ColumnType(StrEnum):
    """What a column holds. Written so that it reads back bit by bit: REAL is a float of 32 bits, DOUBLE of 64."""

    TIME = "time"  # UTC, µs
    TEXT = "text"
    REAL = "real"
    DOUBLE = "double"
    SMALL = "small"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class FileColumn:
    """One column of a file; ``name`` is its heading."""

    name: str
    type: ColumnType


class Sink(Protocol):
    """Takes rows as CSV without a heading, any number of whole lines at a time."""

    def write(self, lines: bytes, /) -> object:
        """Raises OSError when the disk is full."""


def format_of(path: Path, wanted: str | None = None) -> FileFormat:
    """The format by name, or by the file's ending where none is wanted. InputError for one that there is not."""
    names = ", ".join(FileFormat)
    if wanted is not None:
        if wanted not in set(FileFormat):
            raise InputError(f"format {wanted!r}: one of {names}")
        asked = FileFormat(wanted)
        return FileFormat.CSV_GZ if asked is FileFormat.CSV and path.name.endswith(".gz") else asked
    for known in FileFormat:
        if path.name.lower().endswith(f".{known}"):
            return known
    raise InputError(f"{path}: the ending tells no format; end it with .csv, .csv.gz or .parquet, or name the format")


@contextmanager
def open_sink(
    target: Path, format: FileFormat, columns: Sequence[FileColumn], *, force: bool = False
) -> Iterator[Sink]:
    """A sink whose file is under its name, on disk, when the block has ended well; else nothing is left of it.

    ConflictError if there is such a file (unless ``force``); UnavailableError when it cannot be written.
    """
    with atomic_file(target, force=force) as file, sink_on(file, format, columns) as sink:
        yield sink


@contextmanager
def sink_on(file: "IO[bytes] | Outlet", format: FileFormat, columns: Sequence[FileColumn]) -> Iterator[Sink]:
    """A sink that writes to ``file``, which is whole when the block has ended."""
    if format is FileFormat.PARQUET:
        with _ParquetSink(file, columns) as sink:
            yield sink
    else:
        with _csv_stream(file, format) as stream:
            stream.write(",".join(column.name for column in columns).encode() + b"\n")
            yield stream


class Outlet(io.RawIOBase):
    """A file that keeps nothing: what was written to it is taken out, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self.waiting = 0
        """Bytes that were written and not taken."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self.waiting += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces, self.waiting = [], 0
        return taken


@contextmanager
def atomic_file(target: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A file beside ``target`` that takes its name, synced, when the block ends well and is removed otherwise."""
    if target.is_dir():
        raise InputError(f"{target} is a folder: name a file in it")
    if target.exists() and not force:
        raise ConflictError(f"{target} exists: give another name, or --force to replace it")
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise UnavailableError(f"{target}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def file_size(path: Path) -> int:
    """Bytes."""
    return path.stat().st_size


def _sync_folder(folder: Path) -> None:
    """So that the new name, too, survives a power cut: what was exported may be dropped next."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _csv_stream(file: "IO[bytes] | Outlet", format: FileFormat) -> Iterator[Sink]:
    if format is FileFormat.CSV:
        yield file
        return
    # neither name nor time of day in its heading: the same rows make the same file
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
        yield stream


class _ParquetSink:
    """Collects lines and writes them as row groups; pyarrow reads the numbers exactly as COPY wrote them."""

    def __init__(self, file: "IO[bytes] | Outlet", columns: Sequence[FileColumn]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {
            ColumnType.TIME: pa.timestamp("us", tz="UTC"),
            ColumnType.TEXT: pa.string(),
            ColumnType.REAL: pa.float32(),
            ColumnType.DOUBLE: pa.float64(),
            ColumnType.SMALL: pa.int16(),
            ColumnType.WHOLE: pa.int32(),
        }
        self._schema = pa.schema([(column.name, types[column.type]) for column in columns])
        self._lines: list[bytes] = []
        self._size = 0
        # numbers compress better by their bytes (all first ones, all second ones, …), names by a dictionary
        numbers = [c.name for c in columns if c.type in {ColumnType.REAL, ColumnType.DOUBLE}]
        texts = [c.name for c in columns if c.type is ColumnType.TEXT]
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=texts, use_byte_stream_split=numbers
        )

    def __enter__(self) -> "_ParquetSink":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write_group()
        self._writer.close()

    def write(self, lines: bytes) -> None:
        self._lines.append(lines)
        self._size += len(lines)
        if self._size >= _ROW_GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if not self._lines:
            return
        self._writer.write_table(self._parse(io.BytesIO(b"".join(self._lines))))
        self._lines, self._size = [], 0

    def _parse(self, text: io.BytesIO) -> Any:
        import pyarrow.csv as pc

        return pc.read_csv(
            text,
            read_options=pc.ReadOptions(column_names=self._schema.names, use_threads=False),
            convert_options=pc.ConvertOptions(
                column_types=self._schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
