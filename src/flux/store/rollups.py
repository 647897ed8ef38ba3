"""Rollups that conserve energy: the SQL engine, rendered from the metrics of the model, and how to run it.

The engine is plain SQL in ``sql/rollups/*.sql``; a DBA can read it there, or what it renders to with ``flux db sql``.
It is the same for every metric, so the files say each thing once; a line that begins with ``@level`` or ``@counter``
is repeated for each such metric, together with its neighbours that do (``%m%`` its name, ``%k%`` its number); so are
``@demand``, for the metrics whose peaks are kept, ``@weighted``, for those with a weight (``%w%``), ``@counted``, for
powers that counters count (``%e%``), and ``@energy``, for counters of active energy::

    SELECT                                              SELECT
    @counter        max(r.%m%) AS %m%_max,         →        max(r.energy_imported_active) AS energy_imported_active_max,
            …                                               max(r.energy_exported_active) AS energy_exported_active_max,
    @counter{ OR }        r.%m% < r.previous[%k%]  →        r.energy_imported_active < r.previous[1] OR
                                                            r.energy_exported_active < r.previous[2]

What a rollup means is in ``docs/rollups.md``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog
from psycopg import AsyncConnection
from psycopg.errors import Diagnostic

from flux.model import BESS_METRICS, METER_METRICS, Metric, MetricKind
from flux.store import template_metrics

_logger = structlog.get_logger(__name__)
_FOLDER = Path(__file__).parent / "sql" / "rollups"
_EPOCH = "'2000-01-01 00:00:00+00'::timestamptz"
_REPEATED = re.compile(r"@(level|counter|code|demand|weighted|counted|energy)(?:\{(.+?)\})? ")
_PLACEHOLDER = re.compile(r"%(\w+)%")

BATCH_DEVICES = 100
"""Devices per transaction: small enough that a batch lasts about a second when there is much to do."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the rollups; ``source`` None: made from the readings themselves.

    ``step``: the time that one piece of its table holds; ``keep``: for how long, unless told otherwise (None: ever).
    """

    name: str
    width: timedelta
    table: str
    source: str | None
    step: str
    keep: str | None

    @property
    def function(self) -> str:
        return f"get_meter_readings_{self.name}"


BESS_LEVELS = (
    Level("5m", timedelta(minutes=5), "mg_bess_readings_5m", None, "month", "1 year"),
    Level("30m", timedelta(minutes=30), "mg_bess_readings_30m", "mg_bess_readings_5m", "year", "5 years"),
    Level("1h", timedelta(hours=1), "mg_bess_readings_1h", "mg_bess_readings_30m", "year", None),
)
_JUDGED_AND_KEPT = (
    {"view": "mg_meter_readings_judged", "but": "'range', 'operator'"},
    {"view": "mg_meter_readings_kept", "but": "'range', 'operator', 'spike', 'stuck'"},
)
_ALL_AND_MARKED = (
    {"readings": "rollup_meter_readings", "marked": ""},
    {"readings": "mg_meter_readings_kept", "marked": "_marked"},
)
"""The engine stands there twice: where nothing is marked, nobody pays for marks."""
_5M = "mg_meter_readings_5m_intermediate"
_30M = "mg_meter_readings_30m_intermediate"
LEVELS = (
    Level("5m", timedelta(minutes=5), _5M, None, "month", "1 year"),
    Level("30m", timedelta(minutes=30), _30M, _5M, "year", "5 years"),
    Level("1h", timedelta(hours=1), "mg_meter_readings_1h", _30M, "year", None),
)


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh did: devices brought up to date (once per batch), 5-minute buckets written, time taken."""

    devices: int
    buckets: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the rollups are behind: notes of changes not taken yet, and the age of the oldest."""

    changes: int
    age: timedelta


def render_sql() -> str:
    """The whole engine as one script, to be run in one transaction; running it again changes nothing."""
    parts = [_render(name, METER_METRICS) for name in ("00_storage.sql", "01_tables.sql")]
    parts += [_render("02_meter_table.sql", METER_METRICS, **_names(level)) for level in LEVELS]
    parts += [_render("03_changes.sql", METER_METRICS)]
    parts += [
        _render("03_anchors.sql", METER_METRICS, kind="meter"),
        _render("03_anchors.sql", BESS_METRICS, kind="bess"),
    ]
    parts += [_render("03_meter_readings.sql", METER_METRICS, **names) for names in _JUDGED_AND_KEPT]
    parts += [_render("03_marks.sql", METER_METRICS)]
    for name in ("06_meter_neighbours.sql", "04_meter_exact.sql", "05_meter_fast.sql"):
        parts += [_render(name, METER_METRICS, **names) for names in _ALL_AND_MARKED]
    parts += [
        _render("06_meter_coarser.sql", METER_METRICS, **_names(level) | {"function": f"rollup_meter_{level.name}"})
        for level in LEVELS
        if level.source is not None
    ]
    parts += [_render("07_meter_refresh.sql", METER_METRICS)]
    parts += [_render("08_bess_table.sql", BESS_METRICS, **_names(level)) for level in BESS_LEVELS]
    parts += [_render("08_bess.sql", BESS_METRICS)]
    parts += [
        _render("08_bess_coarser.sql", BESS_METRICS, **_names(level) | {"function": f"rollup_bess_{level.name}"})
        for level in BESS_LEVELS
        if level.source is not None
    ]
    parts += [_render("09_read.sql", METER_METRICS, **_names(level)) for level in LEVELS]
    parts += [_render(name, METER_METRICS) for name in ("10_refresh.sql", "11_views.sql", "20_lifecycle.sql")]
    return "\n".join(parts)


async def refresh(conn: AsyncConnection[Any], *, max_devices: int = BATCH_DEVICES) -> RefreshReport:
    """Bring the rollups up to date, one transaction per batch, until nothing is left for this session.

    Several may run at once: they share the devices, and what another one is working on is left to it. ``conn`` must not
    be inside a transaction, or nothing would be committed before its end. A device whose readings cannot be summed up
    is told in the log and left for 5 minutes; why is in ``rollup_devices``.
    """
    started = perf_counter()
    devices = buckets = 0
    conn.add_notice_handler(_log_warning)
    try:
        await template_metrics.follow_templates(conn)
        while True:
            async with conn.transaction():
                # a limit that was set for other work must not keep a large batch from ever being done
                await conn.execute("SET LOCAL statement_timeout = 0")
                cursor = await conn.execute(
                    "SELECT devices, buckets FROM flux.refresh_rollups_batch(%s)", (max_devices,)
                )
                ((done, written),) = await cursor.fetchall()
            devices += done
            buckets += written
            if done == 0:
                return RefreshReport(devices, buckets, perf_counter() - started)
    finally:
        conn.remove_notice_handler(_log_warning)


def _log_warning(notice: Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        _logger.warning("rollups", problem=notice.message_primary)


async def lag(conn: AsyncConnection[Any]) -> Lag | None:
    """How far the rollups are behind the readings; None: everything stored is in them."""
    cursor = await conn.execute("SELECT count(*), clock_timestamp() - min(noted_at) FROM flux.rollup_changes")
    ((changes, age),) = await cursor.fetchall()
    return Lag(changes, age) if changes else None


def _names(level: Level) -> dict[str, str]:
    minutes = level.width // timedelta(minutes=1)
    return {
        "table": level.table,
        "source": level.source or "mg_meter_readings",
        "width": f"{minutes} minutes",
        "function": level.function,
        "made_from": level.source or level.table[: level.table.index("_readings")] + "_readings",
        "step": level.step,
        "keep": f"'{level.keep}'" if level.keep else "NULL",
    }


def _render(file: str, metrics: Sequence[Metric], **values: str) -> str:
    by_kind = {str(kind): [m for m in metrics if m.kind is kind] for kind in MetricKind}
    by_kind |= {"demand": [m for m in metrics if m.demand], "weighted": [m for m in metrics if m.weight]}
    by_kind["counted"] = [m for m in metrics if m.counted]
    by_kind["energy"] = [m for m in metrics if m.kind is MetricKind.COUNTER and m.unit == "kWh"]
    values |= {"epoch": _EPOCH, "counters": str(len(by_kind["counter"]))}
    lines: list[str] = []
    for repeated, group in groupby((_FOLDER / file).read_text().splitlines(), key=_repetition):
        if repeated is None:
            lines += [_fill(line, values) for line in group]
            continue
        kind, separator = repeated
        texts = [line.split(" ", 1)[1] if separator is None else line.split("} ", 1)[1] for line in group]
        repeats = by_kind[kind]
        for k, metric in enumerate(repeats, start=1):
            own = {"m": metric.name, "k": str(k), "w": metric.weight or "", "e": metric.counted or ""}
            own |= {"at": str(by_kind["counter"].index(metric) + 1)} if metric in by_kind["counter"] else {}
            own |= {"is_energy": str(metric in by_kind["energy"]).lower()}
            lines += [_fill(text, values | own) for text in texts]
            lines[-1] += (separator or "").rstrip() if k < len(repeats) else ""
    return "\n".join(lines) + "\n"


def _repetition(line: str) -> tuple[str, str | None] | None:
    """What a line is repeated for and what stands between; lines in a row that say the same are repeated together."""
    found = _REPEATED.match(line)
    return (found[1], found[2]) if found else None


def _fill(text: str, values: dict[str, str]) -> str:
    """Raises KeyError for a placeholder that nothing fills: a mistake in one of our files."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)
