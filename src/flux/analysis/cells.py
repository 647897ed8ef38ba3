"""The cells of CSV files: times and numbers, and what is wrong with them by line."""

import csv
import math
from datetime import UTC, datetime
from pathlib import Path

from flux.errors import InputError


def table_of(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and, with its line, each row that is not empty; InputError where a row is shorter than the header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: {reason}") from None
    lines = csv.reader(text.splitlines())
    header = next(lines, [])
    rows = [(number, row) for number, row in enumerate(lines, start=2) if row]
    for number, row in rows:
        if len(row) < len(header):
            raise InputError(f"{path}:{number}: has {len(row)} cells, its header {len(header)}")
    return header, rows


def instant_in(text: str) -> datetime:
    """UTC; a time without an offset is UTC already. ValueError for what is no time."""
    instant = datetime.fromisoformat(text.strip())
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def number_in(text: str) -> float | None:
    """None for an empty cell; ValueError for what is no finite number."""
    if not text.strip():
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
