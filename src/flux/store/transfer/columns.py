"""What the columns of a file of readings mean, by their names, and how one row becomes a reading::

    time,                     device,          power_total_active [W]
    2026-01-15T12:00:00Z,     WLCE-GRID-METER, 1500                     →  power_total_active = 1.5 kW

A column is a metric of Flux, alone or with a unit in brackets; case, blanks and hyphens in names do not matter.
``time`` needs an offset, unless a zone is given for the file. An empty field, NaN, NULL or NA: not measured.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from flux.errors import InputError
from flux.model import DeviceId, Metric, MetricKind, Reading
from flux.store.ingest import KIND_BY_NAME, KINDS, Kind, Reason

REJECT_COLUMNS = ("rejected_line", "rejected_reason", "rejected_detail")
"""The first columns of a file of rejected rows; passed over when that is imported again, after mending."""
_TIME, _DEVICE, _DEVICE_ID = ("time", "timestamp"), ("device", "device_name"), ("device_id",)
_PASSED_OVER = {"id", "created_at", "site", "type", *REJECT_COLUMNS}
_UNIT = re.compile(r"^(?P<name>.*?)\s*[\[(]\s*(?P<unit>[^\])]*?)\s*[\])]$")
_PREFIXES = {"m": (1, 1000), "": (1, 1), "k": (1000, 1), "M": (1_000_000, 1), "G": (1_000_000_000, 1)}
_MISSING = {"", "nan", "null", "none", "na", "n/a", "-"}


WRONG_SHAPE = "wrong_shape"
"""More or fewer fields than the header; the other reasons of a row are those of a reading."""


class RowError(Exception):
    """A row that cannot become a reading."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class KnownDevices:
    """The registry, as far as an import needs it; ``names``: those not decommissioned."""

    types: Mapping[UUID, str]
    names: Mapping[str, UUID]


@dataclass(frozen=True, slots=True)
class MetricColumn:
    """A column that holds a metric; a value × times ÷ over is in the metric's own unit."""

    place: int
    metric: Metric
    times: int
    over: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a row everything is; a place that is None: the file has no such column."""

    width: int
    time: int
    device: int | None
    device_id: int | None
    metrics: Mapping[str, tuple[MetricColumn, ...]]

    def likely_kind(self, fields: Sequence[Any]) -> str:
        """The kind of a reading whose device is not known: of the columns that are filled, or that there are."""
        for name, columns in self.metrics.items():
            if any(not is_missing(fields[column.place]) for column in columns):
                return name
        return next(name for name, columns in self.metrics.items() if columns)


def read_header(header: Sequence[str], *, device_given: bool, ignore_unknown: bool = False) -> Layout:
    """Find the columns by their names. InputError for one that is unknown (unless passed over), twice or missing."""
    places: dict[str, int] = {}
    metrics: dict[str, list[MetricColumn]] = {kind.name: [] for kind in KINDS}
    by_name = {metric.name: (kind.name, metric) for kind in KINDS for metric in kind.metrics}
    for place, heading in enumerate(header):
        name, unit = _split_unit(heading)
        plain = next((names[0] for names in (_TIME, _DEVICE, _DEVICE_ID) if name in names), name)
        if plain in places:
            raise InputError(f"column {heading!r} is there twice")
        if name in by_name:
            kind, metric = by_name[name]
            metrics[kind].append(MetricColumn(place, metric, *_factor(heading, metric, unit)))
        elif plain == name and name not in {*_TIME, *_DEVICE, *_DEVICE_ID, *_PASSED_OVER}:
            if not ignore_unknown:
                raise InputError(_unknown(heading, name, [*by_name, "time", "device", "device_id"]))
            continue
        places[plain] = place
    _check_complete(places, metrics, device_given=device_given)
    return Layout(
        width=len(header),
        time=places["time"],
        device=places.get("device"),
        device_id=places.get("device_id"),
        metrics={kind: tuple(columns) for kind, columns in metrics.items()},
    )


def _check_complete(places: Mapping[str, int], metrics: Mapping[str, Sequence[object]], *, device_given: bool) -> None:
    if "time" not in places:
        raise InputError("no column is called time")
    has_device = "device" in places or "device_id" in places
    if not has_device and not device_given:
        raise InputError("no column is called device or device_id: name the file's device with --device")
    if has_device and device_given:
        raise InputError("the file names its devices itself: leave out --device")
    if not any(metrics.values()):
        raise InputError("no column is a metric, like power_total_active or soe")


def _split_unit(heading: str) -> tuple[str, str | None]:
    found = _UNIT.match(heading.strip())
    name = found["name"] if found else heading.strip()
    return re.sub(r"[\s-]+", "_", name.lower()), found["unit"] if found else None


def _factor(heading: str, metric: Metric, unit: str | None) -> tuple[int, int]:
    """From the unit of a heading to the metric's own: W → kW is (1, 1000)."""
    own = metric.unit
    if unit is None or unit == own or (unit == "" and own == "1"):
        return 1, 1
    if own in {"1", "%"} and unit in {"1", "%"}:
        return (1, 100) if own == "1" else (100, 1)
    base = own.removeprefix("k")
    # VAr, var, VAR: only the case of the prefix tells units apart
    fits = own not in {"1", "%", ""} and unit.lower().endswith(base.lower())
    prefix = unit[: -len(base)] if fits else None
    if prefix not in _PREFIXES:
        raise InputError(f"column {heading!r}: the unit of {metric.name} is {own or 'none'}, {unit!r} does not fit")
    up, down = _PREFIXES[prefix]
    return (up, down * 1000) if own != base else (up, down)


def _unknown(heading: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"column {heading!r} is not known; {hint}--ignore-unknown passes over such columns"


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes readings of rows. ``device``: that of every row, where the file names none; ``zone``: of plain times.

    ``keep_strangers``: a reading of an id that is not known is made, for ingest to refuse and keep.
    """

    layout: Layout
    devices: KnownDevices
    device: UUID | None = None
    zone: ZoneInfo | None = None
    keep_strangers: bool = True

    def reading(self, fields: Sequence[Any]) -> Reading:
        """Raises :class:`RowError`; a reading with impossible values or an unknown id is made, ingest refuses it."""
        if len(fields) != self.layout.width:
            detail = f"has {len(fields)} fields, the header {self.layout.width}"
            raise RowError(WRONG_SHAPE, detail)
        device = self._device(fields)
        kind = KIND_BY_NAME[self.devices.types.get(device) or self.layout.likely_kind(fields)]
        self._check_others_empty(fields, kind)
        values = _values(self.layout.metrics[kind.name], fields)
        return kind.reading_type(
            device_id=DeviceId(device), time=parse_time(fields[self.layout.time], self.zone), **values
        )

    def _device(self, fields: Sequence[Any]) -> UUID:
        """By id where the registry has it, else by name: a fresh database has given the same devices other ids."""
        if self.device is not None:
            return self.device
        identity = None
        if self.layout.device_id is not None and (text := fields[self.layout.device_id]):
            try:
                identity = text if isinstance(text, UUID) else UUID(str(text))
            except ValueError:
                raise RowError(Reason.UNKNOWN_DEVICE, f"device_id {text!r} is no UUID") from None
            if identity in self.devices.types:
                return identity
        name = None if self.layout.device is None else fields[self.layout.device]
        if name and (found := self.devices.names.get(str(name).strip())) is not None:
            return found
        if identity is not None:
            if not self.keep_strangers:
                raise RowError(Reason.UNKNOWN_DEVICE, f"no device has the id {identity}")
            return identity
        raise RowError(Reason.UNKNOWN_DEVICE, f"no device is called {name!r}" if name else "names no device")

    def _check_others_empty(self, fields: Sequence[Any], kind: Kind) -> None:
        for other, columns in self.layout.metrics.items():
            if other == kind.name:
                continue
            for column in columns:
                if not is_missing(fields[column.place]):
                    detail = f"{column.metric.name} is a {other}'s, the device is a {kind.name}"
                    raise RowError(Reason.WRONG_TYPE, detail)


def parse_time(value: Any, zone: ZoneInfo | None) -> datetime:
    """An aware time of text or of a Parquet value; RowError for what is none, or has no offset and no ``zone``."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            detail = f"time {value!r} is not like 2026-01-15T12:00:00Z" if value.strip() else "has no time"
            raise RowError(Reason.IMPOSSIBLE_TIME, detail) from None
    if not isinstance(value, datetime):
        raise RowError(Reason.IMPOSSIBLE_TIME, "has no time" if value is None else f"time {value!r} is not a time")
    return value if value.tzinfo is not None else _localised(value, zone)


def _localised(wall: datetime, zone: ZoneInfo | None) -> datetime:
    """In UTC; refused where the zone's clock shows that time twice, or never."""
    if zone is None:
        detail = f"time {wall.isoformat()} has no offset: write Z or +01:00, or --timezone"
        raise RowError(Reason.IMPOSSIBLE_TIME, detail)
    try:
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    except OverflowError:  # the year 1, or 9999
        raise RowError(Reason.IMPOSSIBLE_TIME, f"time {wall.isoformat()} is out of range") from None
    if first != second:
        back = first.astimezone(zone).replace(tzinfo=None) == wall
        times = "comes twice" if back else "does not exist"
        raise RowError(Reason.IMPOSSIBLE_TIME, f"time {wall.isoformat()} {times} in {zone.key}: give its offset")
    return first


def _values(columns: Sequence[MetricColumn], fields: Sequence[Any]) -> dict[str, Any]:
    values = {}
    for place, metric, times, over in ((c.place, c.metric, c.times, c.over) for c in columns):
        value = fields[place]
        if value is None or value == "":
            continue
        try:
            number = float(value)
        except (ValueError, TypeError, OverflowError):
            if is_missing(value):
                continue
            raise RowError(Reason.IMPOSSIBLE_VALUE, f"{metric.name} = {value!r} is not a number") from None
        if number != number:  # NaN
            continue
        if times != over:
            number = number * times / over
        whole = metric.kind is MetricKind.CODE and number.is_integer()
        values[metric.name] = int(number) if whole else number
    return values


def is_missing(value: Any) -> bool:
    """Empty, NaN, null or one of the usual words for that."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in _MISSING)
