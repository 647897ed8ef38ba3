"""The SQLite file behind the outbox: every call here blocks, and belongs to one thread.

WAL with ``synchronous=FULL``: what was committed survives a killed process and a lost mains supply.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import structlog

from flux.edge.ticks import Clock
from flux.model import UnavailableError
from flux.store.encoding import Layout, RecordCodec, Recorded, current_layouts

_logger = structlog.get_logger(__name__)

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# After an outage the file is mostly free pages; that many are given back to the disk with each acknowledgement.
_PAGES_FREED_AT_ONCE = 2_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS readings (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
"""

Connect = Callable[[Path], sqlite3.Connection]
"""Opens a file in autocommit mode, for use in whichever thread calls."""

Entry = tuple[int, Recorded]
"""A record and its place in the order."""


class OutboxError(UnavailableError):
    """The outbox could not be written or read: a full disk, a file that can't be opened."""


class OutboxCorruptError(OutboxError):
    """The file is damaged; it can be set aside and a new one begun."""


class OutboxFile:
    """Readings and documents in the order in which they were appended, until deleted."""

    def __init__(self, path: Path, clock: Clock, connect: Connect | None = None) -> None:
        self.path = path
        self._clock = clock
        self._connect = connect or _connect
        self._db: sqlite3.Connection | None = None
        self._codec = RecordCodec({})

    def open(self) -> int:
        """Open or create the file and return how many readings wait in it.

        Raises OutboxCorruptError for a damaged file, OutboxError for anything else that prevents it.
        """
        self.close()
        with _told_as_outbox_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            db = self._connect(self.path)
            try:
                count = self._prepare(db)
            except BaseException:
                db.close()
                if is_new:  # it never held anything; left behind it would look like the outbox of an earlier run
                    self._remove()
                raise
            self._db = db
            return count

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def _prepare(self, db: sqlite3.Connection) -> int:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise OutboxCorruptError(f"{self.path}: is damaged ({problem})")
        with _transaction(db):
            for statement in _SCHEMA.strip().splitlines():
                db.execute(statement)
            bodies = [(layout.to_json(),) for layout in current_layouts()]
            db.executemany("INSERT INTO layouts (body) VALUES (?) ON CONFLICT DO NOTHING", bodies)
        rows = db.execute("SELECT id, body FROM layouts").fetchall()
        self._codec = RecordCodec({number: Layout.from_json(body) for number, body in rows})
        return int(db.execute("SELECT count(*) FROM readings").fetchone()[0])

    def number_from(self, last: int) -> None:
        """The next entry of this new file gets a number above ``last``."""
        with _told_as_outbox_error(self.path):
            self._open_db().execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('readings', ?)", (last,))

    def write(self, readings: Sequence[Recorded], delete_upto: int) -> int:
        """Append ``readings`` and delete every entry up to ``delete_upto``, in one transaction; returns the change
        in the number of entries. When this returns, it is on the disk."""
        with _told_as_outbox_error(self.path):
            db = self._open_db()
            with _transaction(db):
                deleted = db.execute("DELETE FROM readings WHERE seq <= ?", (delete_upto,)).rowcount
                bodies = [(self._codec.encode(reading),) for reading in readings]
                db.executemany("INSERT INTO readings (body) VALUES (?)", bodies)
            if deleted:
                # executescript: execute() would take a single step of it, which frees a single page
                db.executescript(f"PRAGMA incremental_vacuum({_PAGES_FREED_AT_ONCE});")
            return len(readings) - deleted

    def read(self, after: int, limit: int) -> list[Entry]:
        """The oldest ``limit`` entries behind ``after``, in order."""
        with _told_as_outbox_error(self.path):
            query = "SELECT seq, body FROM readings WHERE seq > ? ORDER BY seq LIMIT ?"
            rows = self._open_db().execute(query, (after, limit)).fetchall()
            try:
                return [(seq, self._codec.decode(body)) for seq, body in rows]
            except ValueError as error:
                raise OutboxCorruptError(f"{self.path}: {error}") from error

    def set_aside(self) -> tuple[Path, list[Recorded]]:
        """Rename the damaged file out of the way; returns its new path and the readings that could still be read."""
        saved = self._salvage()
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{self._clock():%Y%m%dT%H%M%S}")
        with _told_as_outbox_error(self.path):
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
        return aside, saved

    def _salvage(self) -> list[Recorded]:
        saved: list[Recorded] = []
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
                layouts = {
                    number: Layout.from_json(body) for number, body in db.execute("SELECT id, body FROM layouts")
                }
                codec = RecordCodec(layouts)
                for (body,) in db.execute("SELECT body FROM readings ORDER BY seq"):
                    saved.append(codec.decode(body))
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            _logger.warning("damaged outbox: the rest can't be read", path=str(self.path), error=str(error))
        return saved

    def close(self) -> None:
        """Close the file; nothing that was written is lost by not calling this."""
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(sqlite3.Error):  # a file that is damaged or on a full disk can't be checkpointed on close
                db.close()

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise OutboxError(f"{self.path}: is not open")
        return self._db


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)


class _transaction:  # noqa: N801 - reads as a statement
    """``BEGIN IMMEDIATE`` … ``COMMIT``, rolled back upon any error, that of the commit itself included."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite ends it by itself upon a full disk
            self._db.execute("ROLLBACK")


class _told_as_outbox_error:  # noqa: N801 - reads as a statement
    """Turns what SQLite and the system say into OutboxError or OutboxCorruptError, naming the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, sqlite3.DatabaseError):
            primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            kind = OutboxCorruptError if primary_code in _CORRUPT else OutboxError
            raise kind(f"{self._path}: {error}") from error
        if isinstance(error, OSError):
            raise OutboxError(f"{self._path}: {error.strerror or error}") from error
