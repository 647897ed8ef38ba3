"""Dispatch and operating envelopes of the past as CSV files, for a backtest."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flux.analysis.cells import instant_in, number_in, table_of
from flux.analysis.told import ALWAYS, NEVER, ToldEnvelope, ToldStep
from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.errors import InputError

Row = TypeVar("Row")
_SPAN = ("start", "end")
_KNOWN = ("known_at", "withdrawn_at")
_LIMITS = ("import_kw", "export_kw")


def read_dispatch(path: Path) -> tuple[ToldStep, ...]:
    """Columns ``start``, ``end``, ``action``; of steps that hold at once the first counts.

    ``known_at`` and ``withdrawn_at``, where the file has them, say from when until when it was known; an empty cell or
    no such column: always. Times without an offset are UTC.
    """

    def step(cells: dict[str, str]) -> ToldStep:
        start, end, known_at, gone_at = _times(cells)
        action = cells["action"].strip()
        if not action:
            raise ValueError("no action")
        return ToldStep(ScheduleStep(start, end, action), known_at, gone_at)

    return tuple(_rows(path, (*_SPAN, "action"), step))


def read_envelopes(path: Path) -> tuple[ToldEnvelope, ...]:
    """Columns ``start``, ``end``, ``import_kw``, ``export_kw`` (empty: the plan's), and those of ``read_dispatch``.

    Of envelopes that hold at once the one known last counts, of several the last of the file.
    """

    def envelope(cells: dict[str, str]) -> ToldEnvelope:
        start, end, known_at, gone_at = _times(cells)
        import_kw, export_kw = (number_in(cells.get(name, "")) for name in _LIMITS)
        if import_kw is None and export_kw is None:
            raise ValueError("neither import_kw nor export_kw")
        return ToldEnvelope(Envelope(start, end, SiteLimits(import_kw, export_kw)), known_at, gone_at)

    found = _rows(path, _SPAN, envelope)
    found.reverse()
    return tuple(sorted(found, key=lambda one: one.known_at, reverse=True))


def _rows(path: Path, needed: Sequence[str], row_of: Callable[[dict[str, str]], Row]) -> list[Row]:
    header, rows = table_of(path)
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(f"{path}:1: needs the columns {', '.join(needed)}; there is no {missing[0]}")
    found = []
    for number, row in rows:
        try:
            found.append(row_of(dict(zip(header, row, strict=False))))
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None
    return found


def _times(cells: dict[str, str]) -> tuple[datetime, datetime, datetime, datetime]:
    start, end = (instant_in(cells[name]) for name in _SPAN)
    if end <= start:
        raise ValueError(f"ends at {cells['end']}, and must end after it starts")
    known, gone = (cells.get(name, "").strip() for name in _KNOWN)
    return start, end, instant_in(known) if known else ALWAYS, instant_in(gone) if gone else NEVER
