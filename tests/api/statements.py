"""What the server under test told PostgreSQL, word for word, from PostgreSQL's own log."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ UTC \[\d+\] (?P<app>.*?) ?(?P<kind>[A-Z]+\d?):  (?P<text>.*)", re.DOTALL)
_BEGIN = re.compile(r"^(?=\d{4}-\d\d-\d\d [\d:.]+ UTC \[\d+\] )", re.MULTILINE)
_SAID = re.compile(r"^(?:statement|execute [^:]*): (.*)", re.DOTALL)
_QUOTED_NAME = re.compile(r'"(?:[^"]|"")*"')


def unmeant(statements: Iterable[str], mark: str) -> list[str]:
    """Those in which ``mark``, a caller's text, stands where it is not a quoted name."""
    return [text for text in statements if mark in _QUOTED_NAME.sub("", text)]


class StatementLog:
    """The statements since it was last read."""

    def __init__(self, log: Path, begin: int) -> None:
        self._log = log
        self._read_up_to = begin

    def statements(self) -> list[str]:
        """Texts without their parameters, which the log has on lines of their own."""
        with self._log.open("rb") as file:
            file.seek(self._read_up_to)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_up_to += len(whole)
        entries = (_ENTRY.match(entry) for entry in _BEGIN.split(whole.decode("utf-8", "replace")) if entry)
        said = (_SAID.match(entry["text"]) for entry in entries if entry and entry["kind"] == "LOG")
        return [found[1] for found in said if found]

    def forget(self) -> None:
        """Empty the log, which the server appends to: millions of statements need room."""
        os.truncate(self._log, 0)
        self._read_up_to = 0


@contextmanager
def every_statement(superuser_dsn: str) -> Iterator[StatementLog]:
    """Log all statements of sessions on this database that begin from here on; skips where the log is out of reach."""
    with psycopg.connect(superuser_dsn, autocommit=True) as conn:
        ((folder, name),) = conn.execute("SELECT current_setting('data_directory'), current_database()").fetchall()
        log = Path(folder).parent / "server.log"
        if not log.exists():
            pytest.skip("the log of the PostgreSQL server is not here to be read")
        begin = log.stat().st_size
        conn.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'".encode())
        conn.execute(f'ALTER DATABASE "{name}" SET log_parameter_max_length = 0'.encode())
        try:
            yield StatementLog(log, begin)
        finally:
            conn.execute(f'ALTER DATABASE "{name}" RESET log_statement'.encode())
            conn.execute(f'ALTER DATABASE "{name}" RESET log_parameter_max_length'.encode())
