"""Reading files of rows, one after another: CSV (plain or gzip; comma, semicolon or tab) and Parquet.

What a file is, its first bytes tell, not its name. Memory does not grow with the file: CSV is read line by line,
Parquet some thousand rows at a time.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from flux.errors import InputError

_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_ROWS = 5000
_DELIMITERS = ",;\t"

Row = tuple[int, Sequence[Any]]
"""The number of its line (of a Parquet file: row), from 1, and its fields in the order of the header."""


class RowSource(Protocol):
    """A file that is read row by row."""

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns, as they stand in the file."""

    @property
    def unit(self) -> str:
        """What the numbers of its rows count: ``line`` or ``row``."""

    @property
    def total(self) -> int:
        """The end that :meth:`position` comes to: bytes of a CSV file, rows of a Parquet file."""

    def position(self) -> int:
        """How far it has been read."""

    def rows(self) -> Iterator[Row]:
        """Raises InputError where the file is damaged."""


@contextmanager
def open_rows(path: Path) -> Iterator[RowSource]:
    """The rows of a file for as long as the block; InputError where there is none, or none that can be read."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic == _PARQUET_MAGIC:
                yield _ParquetRows(path, file)
            else:
                yield _CsvRows(path, file, packed=magic.startswith(_GZIP_MAGIC))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: {error.strerror}") from None


class _CsvRows:
    unit = "line"

    def __init__(self, path: Path, file: IO[bytes], *, packed: bool) -> None:
        self._path = path
        self._file = file
        self.total = path.stat().st_size
        plain = gzip.GzipFile(fileobj=file) if packed else file
        # a spreadsheet's CSV begins with a byte order mark; newlines inside quotes are the csv module's business
        self._reader: Any = None
        self._text = io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")
        first = self._checked(self._text.readline)
        if not first.strip():
            raise InputError(f"{path}: is empty; its first line must name the columns")
        delimiter = max(_DELIMITERS, key=first.count)
        self.header = tuple(name.strip() for name in next(csv.reader([first], delimiter=delimiter)))
        self._reader = csv.reader(self._text, delimiter=delimiter, strict=True)

    def position(self) -> int:
        return self._file.tell()

    def rows(self) -> Iterator[Row]:
        while (fields := self._checked(lambda: next(self._reader, None))) is not None:
            if fields:  # an empty line is no row
                yield self._reader.line_num + 1, fields

    def _checked(self, read: Any) -> Any:
        """Do it; what is wrong with the file's bytes becomes one line with the place."""
        try:
            return read()
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 text ({error.reason}); save it as UTF-8"
        except csv.Error as error:
            problem = f"is not CSV: {error}"
        except (gzip.BadGzipFile, EOFError, OSError) as error:
            problem = f"cannot be read on: {error}"
        where = f"after line {self._reader.line_num + 1}: " if self._reader is not None else ""
        raise InputError(f"{self._path}: {where}{problem}")


class _ParquetRows:
    unit = "row"

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._broken = pa.ArrowException
        self._number = 0
        try:
            self._parquet = pq.ParquetFile(file, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: is not a Parquet file: {_one_line(error)}") from None
        self.header = tuple(self._parquet.schema_arrow.names)
        self.total = self._parquet.metadata.num_rows

    def position(self) -> int:
        return self._number

    def rows(self) -> Iterator[Row]:
        try:
            for batch in self._parquet.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
                columns = [_values(column) for column in batch.columns]
                for fields in zip(*columns, strict=True):
                    self._number += 1
                    yield self._number, fields
        except (self._broken, OSError) as error:
            raise InputError(f"{self._path}: after row {self._number}: cannot be read on: {_one_line(error)}") from None


def _values(column: Any) -> list[Any]:
    """Python values; of times what is finer than a microsecond goes, as Flux keeps microseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
