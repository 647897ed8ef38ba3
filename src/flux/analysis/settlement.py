"""Settlement: what each meter carried in each settlement period, what it cost, and how far that can be trusted.

A meter that imported 2 kWh in period 35 at an import rate of £225.46/MWh has a line with £0.45. Over the span, the
lines and the listed gaps of a meter together are exactly what its counters counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np

from flux.analysis.flows import Direction, Series
from flux.analysis.rating import RatedSteps, cost, daily_charges, rate_steps
from flux.analysis.settlement_facts import EXPORTED, IMPORTED, Facts, HalfHour, SettledMeter
from flux.analysis.settlement_notices import Notice, notices_of
from flux.analysis.tariff import Market, Tariff
from flux.analysis.timeline import Timeline
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, SettlementPeriod, settlement_period
from flux.store.gaps import GapKind


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One meter in one settlement period; kWh, £ (+ cost), £/MWh; None: not known, or nothing is paid there."""

    meter: str
    period: SettlementPeriod
    samples: int | None
    import_kwh: float | None
    export_kwh: float | None
    import_rate: float | None
    export_rate: float | None
    import_gbp: float | None
    export_gbp: float | None


@dataclass(frozen=True, slots=True)
class MeterTotal:
    """A meter over the span. ``…_kwh``: of its half hours; ``listed_…_kwh``: of gaps that are in no half hour.

    ``by_rate``: £ of each rate by direction; they sum up to ``import_gbp`` and ``export_gbp``.
    """

    meter: SettledMeter
    half_hours: int
    import_kwh: float
    export_kwh: float
    listed_import_kwh: float
    listed_export_kwh: float
    import_gbp: float | None
    export_gbp: float | None
    by_rate: Mapping[Direction, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The whole report: start ≤ time < end."""

    start: datetime
    end: datetime
    tariff: Tariff
    as_of: datetime | None
    prices: Mapping[Market, Series]
    """£/MWh of each half hour, nan where missing."""
    lines: tuple[SettlementLine, ...]
    totals: tuple[MeterTotal, ...]
    daily: Mapping[str, float]
    notices: tuple[Notice, ...]

    @property
    def energy_gbp(self) -> float:
        """£ of all settled half hours that have a price."""
        return sum((total.import_gbp or 0.0) + (total.export_gbp or 0.0) for total in self.totals)

    @property
    def total_gbp(self) -> float:
        return self.energy_gbp + sum(self.daily.values())


def month_span(text: str) -> tuple[datetime, datetime]:
    """``2024-01`` → its first instant and the first of the next month, by the GB local day."""
    try:
        first = date.fromisoformat(f"{text}-01")
    except ValueError:
        raise InputError(f"--month {text}: write it like 2024-01") from None
    after = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    return SettlementPeriod(first, 1).start, SettlementPeriod(after, 1).start


def settle(
    facts: Facts,
    start: datetime,
    end: datetime,
    tariff: Tariff,
    *,
    as_of: datetime | None = None,
    tolerance: float = 0.01,
) -> Settlement:
    """Settle the primary meters of ``facts``; ``tolerance``: how far check meters may differ, as a share."""
    timeline = Timeline.between(start, end, SETTLEMENT_PERIOD)
    starts = timeline.starts()
    prices = {market: _series(facts.prices.get(market, {}), starts) for market in sorted(tariff.markets)}
    rated = rate_steps(tariff, timeline, prices)
    by_meter = {meter.device_id: _by_start(facts.half_hours, meter) for meter in facts.meters}
    settled = [meter for meter in facts.meters if meter.settled]
    periods = [settlement_period(instant) for instant in starts]
    lines: list[SettlementLine] = []
    for meter in settled:
        lines += _lines(meter, by_meter[meter.device_id], starts, periods, rated)
    return Settlement(
        start=start.astimezone(UTC),
        end=end.astimezone(UTC),
        tariff=tariff,
        as_of=as_of,
        prices=prices,
        lines=tuple(lines),
        totals=tuple(_total(meter, by_meter[meter.device_id], starts, rated, facts) for meter in settled),
        daily=daily_charges(tariff, start, end),
        notices=notices_of(facts, timeline, tariff, prices, tolerance),
    )


def directions_of(meter: SettledMeter) -> tuple[Direction | None, Direction | None]:
    """By which rates a meter's import and export are paid; None: by none."""
    if meter.meter_type in (None, "grid"):
        return Direction.IMPORT, Direction.EXPORT
    return (Direction.LOAD, None) if meter.meter_type == "load" else (None, None)


def _by_start(half_hours: Sequence[HalfHour], meter: SettledMeter) -> dict[datetime, HalfHour]:
    return {half.time: half for half in half_hours if half.device_id == meter.device_id}


def _series(values: Mapping[datetime, float], starts: Sequence[datetime]) -> Series:
    return np.array([values.get(start, np.nan) for start in starts], dtype=np.float64)


def _energies(halves: Mapping[datetime, HalfHour], starts: Sequence[datetime]) -> tuple[Series, Series]:
    """Imported and exported kWh of each half hour, nan where not known."""
    imported = {time: half.import_kwh for time, half in halves.items() if half.import_kwh is not None}
    exported = {time: half.export_kwh for time, half in halves.items() if half.export_kwh is not None}
    return _series(imported, starts), _series(exported, starts)


def _lines(
    meter: SettledMeter,
    halves: Mapping[datetime, HalfHour],
    starts: Sequence[datetime],
    periods: Sequence[SettlementPeriod],
    rated: RatedSteps,
) -> list[SettlementLine]:
    columns: list[Series] = []
    for energy, direction in zip(_energies(halves, starts), directions_of(meter), strict=True):
        rate = np.full(len(starts), np.nan) if direction is None else rated.direction[direction]
        columns += [energy, rate, np.full(len(starts), np.nan) if direction is None else cost(energy, rate)]
    lines = []
    for number, (start, period) in enumerate(zip(starts, periods, strict=True)):
        half = halves.get(start)
        numbers = [None if np.isnan(column[number]) else float(column[number]) for column in columns]
        imported, import_rate, import_gbp, exported, export_rate, export_gbp = numbers
        samples = None if half is None else half.samples
        lines.append(
            SettlementLine(
                meter.name, period, samples, imported, exported, import_rate, export_rate, import_gbp, export_gbp
            )
        )
    return lines


def _total(
    meter: SettledMeter,
    halves: Mapping[datetime, HalfHour],
    starts: Sequence[datetime],
    rated: RatedSteps,
    facts: Facts,
) -> MeterTotal:
    imported, exported = _energies(halves, starts)
    by_rate: dict[Direction, dict[str, float]] = {}
    money: list[float | None] = []
    for energy, direction in zip((imported, exported), directions_of(meter), strict=True):
        if direction is None:
            money.append(None)
            continue
        whole = cost(energy, rated.direction[direction])
        priced = ~np.isnan(whole)  # where one rate is missing none counts, so that the rates sum up to the whole
        by_rate[direction] = {
            name: float(cost(energy[priced], values[priced]).sum()) for name, values in rated.lines[direction].items()
        }
        money.append(float(whole[priced].sum()))
    inside = [
        gap
        for gap in facts.gaps
        if gap.kind is GapKind.SPLIT
        and gap.device_id == meter.device_id
        and gap.from_time >= rated.timeline.start
        and gap.to_time <= rated.timeline.end
    ]
    return MeterTotal(
        meter=meter,
        half_hours=len(halves),
        import_kwh=float(np.nansum(imported)),
        export_kwh=float(np.nansum(exported)),
        listed_import_kwh=sum((gap.energy.get(IMPORTED, 0.0) for gap in inside), 0.0),
        listed_export_kwh=sum((gap.energy.get(EXPORTED, 0.0) for gap in inside), 0.0),
        import_gbp=money[0],
        export_gbp=money[1],
        by_rate=by_rate,
    )
