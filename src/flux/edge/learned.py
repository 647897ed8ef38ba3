"""What the edge learned from the platform, kept in a file of its own so that it starts and controls without it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import structlog

from flux.control.feed import ControlFeed
from flux.edge.link import RegistrySnapshot
from flux.edge.ticks import Clock

_logger = structlog.get_logger(__name__)

_SCHEMA = "CREATE TABLE IF NOT EXISTS learned (key TEXT PRIMARY KEY, body TEXT NOT NULL, learned_at TEXT NOT NULL)"
_REGISTRY = "registry"
_FEED = "control feed"

LearnedT = TypeVar("LearnedT")


class LearnedStore:
    """Small SQLite file; each call opens it anew and blocks, so call it in a thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def save_registry(self, snapshot: RegistrySnapshot) -> None:
        """Remember ``snapshot`` in place of the one before; OSError or sqlite3.Error when the disk refuses."""
        self._save(_REGISTRY, snapshot.to_json())

    def load_registry(self) -> RegistrySnapshot | None:
        """What was saved last; None when there is nothing, or nothing that can be read (which is logged)."""
        return self._load(_REGISTRY, RegistrySnapshot.from_json)

    def save_feed(self, feed: ControlFeed) -> None:
        """As :meth:`save_registry`, for what the platform tells the controller."""
        self._save(_FEED, feed.to_json())

    def load_feed(self) -> ControlFeed | None:
        """As :meth:`load_registry`; a feed of another version, that can't be read, is none."""
        return self._load(_FEED, _feed_from_json)

    def _save(self, key: str, body: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as db:
            db.execute(
                "INSERT INTO learned (key, body, learned_at) VALUES (?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET body = excluded.body, learned_at = excluded.learned_at",
                (key, json.dumps(body, separators=(",", ":")), self._clock().isoformat()),
            )

    def _load(self, key: str, parse: Callable[[dict[str, Any]], LearnedT | None]) -> LearnedT | None:
        if not self._path.exists():
            return None
        try:
            with closing(self._open()) as db:
                row = db.execute("SELECT body FROM learned WHERE key = ?", (key,)).fetchone()
            return None if row is None else parse(json.loads(row[0]))
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{self._clock():%Y%m%dT%H%M%S}")
            self._path.rename(aside)
            _logger.error("what was learned can't be read", what=key, kept_as=str(aside), error=str(error))  # noqa: TRY400 - a damaged file, not a bug
            return None

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=10)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db


def _feed_from_json(body: dict[str, Any]) -> ControlFeed | None:
    try:
        return ControlFeed.from_json(body)
    except ValueError as error:  # the platform tells it again; what is known of the registry stays
        _logger.warning("what was learned of market and dispatch can't be read", error=str(error))
        return None
