"""A settlement as CSV, as JSON and as one HTML page that needs nothing else."""

import csv
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from flux.analysis.settlement import MeterTotal, Settlement, SettlementLine
from flux.analysis.tariff import tariff_hash
from flux.charts.parts import COLOURS
from flux.charts.series import Line, Panel, draw_series
from flux.errors import InputError
from flux.model import GB_TIMEZONE

COLUMNS = (
    "meter",
    "settlement_date",
    "settlement_period",
    "time",
    "samples",
    "import_kwh",
    "export_kwh",
    "import_rate_gbp_mwh",
    "export_rate_gbp_mwh",
    "import_gbp",
    "export_gbp",
)
_DIGITS = 6
_TEMPLATE = Path(__file__).with_name("settlement.html.j2")


def write_csv(path: Path, settlement: Settlement) -> None:
    """Every line; energies to the millionth of a kWh, so that sums are those of the counters."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(_row(line) for line in settlement.lines)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def as_mapping(settlement: Settlement) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "from": _utc(settlement.start),
        "to": _utc(settlement.end),
        "tariff": settlement.tariff.name,
        "tariff_hash": tariff_hash(settlement.tariff),
        "prices_as_of": None if settlement.as_of is None else _utc(settlement.as_of),
        "meters": [_total_row(total) for total in settlement.totals],
        "daily_charges_gbp": dict(settlement.daily),
        "energy_gbp": settlement.energy_gbp,
        "total_gbp": settlement.total_gbp,
        "notices": [{"grade": n.grade.value, "meter": n.meter, "text": n.text} for n in settlement.notices],
        "lines": [_row(line) for line in settlement.lines],
    }


def write_page(path: Path, settlement: Settlement, title: str) -> None:
    """One HTML file: totals, notices, a picture, days and every line; no script, nothing from elsewhere."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(kwh=_kwh, gbp=_gbp)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        settlement=settlement,
        start=settlement.start.astimezone(GB_TIMEZONE),
        end=settlement.end.astimezone(GB_TIMEZONE),
        tariff_hash=tariff_hash(settlement.tariff),
        picture=_picture(settlement),
        days=list(_days(settlement.lines)),
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _row(line: SettlementLine) -> dict[str, Any]:
    values = (line.import_kwh, line.export_kwh, line.import_rate, line.export_rate, line.import_gbp, line.export_gbp)
    rounded = (None if value is None else round(value, _DIGITS) + 0.0 for value in values)
    when = (line.period.day.isoformat(), line.period.number, _utc(line.period.start))
    return dict(zip(COLUMNS, (line.meter, *when, line.samples, *rounded), strict=True))


def _total_row(total: MeterTotal) -> dict[str, Any]:
    return {
        "meter": total.meter.name,
        "site": total.meter.site,
        "meter_type": total.meter.meter_type,
        "half_hours": total.half_hours,
        "import_kwh": total.import_kwh,
        "export_kwh": total.export_kwh,
        "listed_import_kwh": total.listed_import_kwh,
        "listed_export_kwh": total.listed_export_kwh,
        "import_gbp": total.import_gbp,
        "export_gbp": total.export_gbp,
        "by_rate_gbp": {direction.value: dict(rates) for direction, rates in total.by_rate.items()},
    }


def _days(lines: Sequence[SettlementLine]) -> Iterator[dict[str, Any]]:
    """Each meter's local days, with their sums."""
    days: dict[tuple[str, str], list[SettlementLine]] = {}
    for line in lines:
        days.setdefault((line.meter, line.period.day.isoformat()), []).append(line)
    for (meter, day), of_day in days.items():
        sums = {
            name: sum(getattr(line, name) or 0.0 for line in of_day)
            for name in ("import_kwh", "export_kwh", "import_gbp", "export_gbp")
        }
        yield {"meter": meter, "day": day, "lines": of_day, "unknown": sum(_unknown(line) for line in of_day)} | sums


def _unknown(line: SettlementLine) -> bool:
    return line.import_kwh is None or line.export_kwh is None


def _picture(settlement: Settlement) -> str:
    """Energy of each half hour, import up and export down, over the prices."""
    energy = []
    for number, total in enumerate(settlement.totals):
        own = [line for line in settlement.lines if line.meter == total.meter.name]
        net: list[tuple[datetime, float | None]] = [
            (line.period.start, None if _unknown(line) else (line.import_kwh or 0.0) - (line.export_kwh or 0.0))
            for line in own
        ]
        energy.append(Line(total.meter.name, COLOURS[number % len(COLOURS)], net))
    panels = [Panel("kWh per half hour, + import", energy, height=200)]
    starts = [line.period.start for line in settlement.lines[: len(next(iter(settlement.prices.values()), []))]]
    prices = [
        Line(market.value, COLOURS[-1 - number], _points(starts, values))
        for number, (market, values) in enumerate(settlement.prices.items())
    ]
    if prices:
        panels.append(Panel("£/MWh", prices))
    return draw_series(panels, settlement.start, settlement.end, GB_TIMEZONE, "Energy and prices by settlement period")


def _points(starts: Sequence[datetime], values: Any) -> list[tuple[datetime, float | None]]:
    return [
        (start, None if np.isnan(value) else float(value)) for start, value in zip(starts, values.tolist(), strict=True)
    ]


def _utc(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _kwh(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _gbp(value: float | None) -> str:
    return "–" if value is None else f"{'−' if value < -0.005 else ''}£{abs(value):,.2f}"
