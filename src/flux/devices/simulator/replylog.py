"""The device's own record of what it answered: one JSON object a line, written before the answer is sent.

``{"time": "2026-01-15T17:05:00.000123+00:00", "device": "WLCE-GRID-METER", "unit": 1, "function": 3, "address": 12288,
"count": 60, "words": [16968, 0, …]}``. Writes have the words that were written; a refusal has ``exception`` and no
words. Each line is handed to the operating system whole, so it outlives a killed process.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from flux.errors import InputError


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: of a read with the words read, of a write with the words written, or an exception."""

    time: datetime
    device: str
    unit: int
    function: int
    address: int
    count: int
    words: Sequence[int] = ()
    exception: int | None = None


ReplySink = Callable[[Reply], None]


class ReplyLog:
    """A :data:`ReplySink` that appends to a file."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`InputError` when the file cannot be opened."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"reply log {path}: {error.strerror}") from None
        self.path = path

    def __call__(self, reply: Reply) -> None:
        row: dict[str, object] = {
            "time": reply.time.isoformat(),
            "device": reply.device,
            "unit": reply.unit,
            "function": reply.function,
            "address": reply.address,
            "count": reply.count,
        }
        row |= {"words": list(reply.words)} if reply.exception is None else {"exception": reply.exception}
        os.write(self._file, json.dumps(row, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_reply_log(path: Path) -> list[Reply]:
    """The answers in a reply log, in the order in which they were given."""
    replies = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        replies.append(Reply(**{**row, "time": datetime.fromisoformat(row["time"])}))
    return replies
