"""Market values from CSV: which column is the time, which the value, in which unit and zone.

A file in p/kWh by local time::

    Mapping(type=3, unit="£/MWh", value="price", value_unit="p/kWh", time="spClockTime", zone=ZoneInfo("Europe/London"))
    2024-06-01 13:00,9.5   →   95 £/MWh about 12:00 UTC

A local time that comes twice in autumn means its first coming, and its second where the row before it was in or after
the first. One that the clocks skip is an error. An empty value is missing.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from math import isfinite
from pathlib import Path
from typing import Any

from flux.errors import InputError
from flux.model import MarketValue, SettlementPeriod

_FACTORS = {
    ("p/kWh", "£/MWh"): 10.0,
    ("£/kWh", "£/MWh"): 1000.0,
    ("kW", "MW"): 1e-3,
    ("GW", "MW"): 1e3,
    ("MW", "kW"): 1e3,
    ("kWh", "MWh"): 1e-3,
    ("MWh/half hour", "MW"): 2.0,  # energy of a half hour as its mean power
    ("MW", "MWh"): 0.5,
}
_TIME_NAMES = ("time", "timestamp", "datetime", "spUTCTime", "UTCTime", "start", "start_time")
_VALUE_NAMES = ("value", "price", "volume", "energy", "niv", "niv_mw")


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a file is read; ``time`` or ``value`` None: the first column of a usual name.

    ``day`` and ``period`` (settlement date and number) go in place of ``time``. ``zone``: of times without an offset;
    None: they are errors. A value is known since the time in column ``known_at``, or ``delay`` after its own time, or,
    with neither, since it is stored.
    """

    type: int
    unit: str
    value: str | None = None
    value_unit: str | None = None
    time: str | None = None
    day: str | None = None
    period: str | None = None
    zone: tzinfo | None = None
    known_at: str | None = None
    delay: timedelta | None = None
    site: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def factor(self) -> float:
        """What a value is multiplied by; InputError for units that don't convert."""
        if self.value_unit is None or self.value_unit == self.unit:
            return 1.0
        factor = _FACTORS.get((self.value_unit, self.unit))
        if factor is None:
            known = sorted(unit for unit, to in _FACTORS if to == self.unit)
            raise InputError(f"unit {self.value_unit}: does not convert to {self.unit}; known are {', '.join(known)}")
        return factor


def read_csv(path: Path, mapping: Mapping) -> list[MarketValue]:
    """All values of a file; InputError names file, line and column of what is wrong, and then there are none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return list(_values(path, csv.DictReader(lines), mapping))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path}: {error}") from None


def _values(path: Path, rows: "csv.DictReader[str]", mapping: Mapping) -> Iterator[MarketValue]:
    columns = rows.fieldnames or []
    value_column = _column(path, columns, mapping.value, _VALUE_NAMES, "--value")
    for named in (mapping.time, mapping.day, mapping.period, mapping.known_at):
        if named is not None and named not in columns:
            raise InputError(f"{path}: no column {named!r}; there are {', '.join(columns)}")
    time_column = None if mapping.day else _column(path, columns, mapping.time, _TIME_NAMES, "--time")
    factor, before = mapping.factor(), None
    for row in rows:
        where = f"{path}:{rows.line_num}"
        text = (row.get(value_column) or "").strip()
        time = (
            _period_start(where, row, mapping)
            if time_column is None
            else _time(where, row, time_column, mapping, before)
        )
        before = time
        if text:
            yield MarketValue(
                type=mapping.type,
                time=time,
                value=_number(where, value_column, text) * factor,
                site=mapping.site,
                known_at=_known_at(where, row, mapping, time),
                metadata=dict(mapping.metadata),
            )


def _column(path: Path, columns: Sequence[str], named: str | None, usual: Iterable[str], option: str) -> str:
    wanted = [named] if named is not None else list(usual)
    for name in wanted:
        if name in columns:
            return name
    raise InputError(
        f"{path}: no column {' or '.join(wanted)}; there are {', '.join(columns)}: say which with {option}"
    )


def _number(where: str, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"{where}: {column}: {text!r} is not a number")
    return number


def _time(where: str, row: dict[str, str], column: str, mapping: Mapping, before: datetime | None = None) -> datetime:
    text = (row.get(column) or "").strip()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{where}: {column}: {text!r} is not a time; write it like 2026-01-15T17:00Z") from None
    if instant.tzinfo is not None:
        return instant.astimezone(UTC)
    if mapping.zone is None:
        raise InputError(f"{where}: {column}: {text!r} has no offset; say its zone with --zone")
    return _local(where, instant.replace(tzinfo=mapping.zone), before)


def _local(where: str, local: datetime, before: datetime | None) -> datetime:
    first, second = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if first.astimezone(local.tzinfo).replace(fold=0) != local.replace(fold=0):
        raise InputError(f"{where}: {local:%Y-%m-%d %H:%M} does not exist: the clocks go forward over it")
    return second if before is not None and first <= before < second else first


def _period_start(where: str, row: dict[str, str], mapping: Mapping) -> datetime:
    day, number = row.get(mapping.day or "") or "", row.get(mapping.period or "") or ""
    try:
        return SettlementPeriod(date.fromisoformat(day.strip()[:10]), int(number)).start
    except ValueError as error:
        raise InputError(f"{where}: settlement period {day} {number}: {error}") from None


def _known_at(where: str, row: dict[str, str], mapping: Mapping, time: datetime) -> datetime | None:
    if mapping.known_at is not None and (row.get(mapping.known_at) or "").strip():
        return _time(where, row, mapping.known_at, mapping)
    return None if mapping.delay is None else time + mapping.delay
