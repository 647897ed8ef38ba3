"""What weakens a settlement, graded, in words that say what to do about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from flux.analysis.flows import Direction, Series
from flux.analysis.settlement_facts import EXPORTED, IMPORTED, Facts, SettledMeter
from flux.analysis.tariff import Market, Tariff
from flux.analysis.timeline import Timeline
from flux.model import GB_TIMEZONE, settlement_period
from flux.store.gaps import GapKind

_MUCH = 0.01
"""Of a meter's energy: interpolated energy beyond this share is worth a second look."""
_SMALL_KWH = 0.1
_LONG = timedelta(minutes=15)
"""Of a span without readings: shorter ones hardly move energy from one half hour to another."""
_PRICE_NAMES = {Market.IMBALANCE: "imbalance", Market.DAY_AHEAD: "day-ahead"}


class Grade(StrEnum):
    """How much a notice weakens the figures."""

    SERIOUS = "serious"  # figures are missing or may be wrong: don't settle on them
    DOUBTFUL = "doubtful"  # they may still change, or differ from another meter's
    MINOR = "minor"  # worth knowing


@dataclass(frozen=True, slots=True)
class Notice:
    """``meter`` None: it is about all of them."""

    grade: Grade
    meter: str | None
    text: str


def notices_of(
    facts: Facts, timeline: Timeline, tariff: Tariff, prices: Mapping[Market, Series], tolerance: float
) -> tuple[Notice, ...]:
    """All of a span, the gravest first."""
    found = [*_of_prices(timeline, prices), *_of_tariff(tariff)]
    for meter in facts.meters:
        found += [
            *_of_completeness(facts, meter, timeline),
            *_of_gaps(facts, meter, timeline),
            *_of_counters(facts, meter),
        ]
        if not meter.settled:
            found += _of_agreement(facts, meter, tolerance)
    return tuple(sorted(found, key=lambda notice: list(Grade).index(notice.grade)))


def _of_prices(timeline: Timeline, prices: Mapping[Market, Series]) -> Iterator[Notice]:
    for market, values in prices.items():
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            first = timeline.start + int(missing[0]) * timeline.step
            yield Notice(
                Grade.SERIOUS,
                None,
                f"{_halves(len(missing))} without {_PRICE_NAMES[market]} price, the first {_period(first)}:"
                " their energy is not in the costs",
            )


def _of_tariff(tariff: Tariff) -> Iterator[Notice]:
    flows = [direction for direction in Direction if "_to_" in direction.value and tariff.rates.of(direction)]
    if flows:
        names = ", ".join(direction.value for direction in flows)
        yield Notice(Grade.MINOR, None, f"rates of single flows ({names}) are not in it: a meter can't tell them apart")


def _of_completeness(facts: Facts, meter: SettledMeter, timeline: Timeline) -> Iterator[Notice]:
    known = {h.time for h in facts.half_hours if h.device_id == meter.device_id and h.import_kwh is not None}
    unknown = [start for start in timeline.starts() if start not in known]
    if unknown:
        yield Notice(
            Grade.SERIOUS,
            meter.name,
            f"{_halves(len(unknown))} without a figure, the first {_period(unknown[0])}: no reading stands for them",
        )
    if meter.pending:
        yield Notice(
            Grade.SERIOUS,
            meter.name,
            "readings came in that the rollups do not have yet: settle again after CALL flux.refresh_rollups()",
        )
    if meter.final_before is not None and meter.final_before < timeline.end:
        left = (timeline.end - max(meter.final_before, timeline.start)) / timeline.step
        yield Notice(
            Grade.DOUBTFUL, meter.name, f"{_halves(int(np.ceil(left)))} not final: readings of them may still come"
        )


def _of_gaps(facts: Facts, meter: SettledMeter, timeline: Timeline) -> Iterator[Notice]:
    gaps = [gap for gap in facts.gaps if gap.device_id == meter.device_id]
    for gap in gaps:
        if gap.kind is GapKind.SPLIT:
            imported, exported = gap.energy.get(IMPORTED, 0.0), gap.energy.get(EXPORTED, 0.0)
            inside = gap.from_time >= timeline.start and gap.to_time <= timeline.end
            where = "listed in the totals" if inside else "it reaches out of the span, so it is in no total"
            yield Notice(
                Grade.SERIOUS,
                meter.name,
                f"no reading from {_local(gap.from_time)} to {_local(gap.to_time)}: {imported:,.2f} kWh of import and"
                f" {exported:,.2f} kWh of export are in no half hour; {where}",
            )
    spans = [gap for gap in gaps if gap.kind is GapKind.INTERPOLATED and gap.length >= _LONG]
    if not spans:
        return
    shared = sum(gap.energy.get(IMPORTED, 0.0) + gap.energy.get(EXPORTED, 0.0) for gap in spans)
    whole = sum(_carried(facts, meter))
    share = shared / whole if whole else 0.0
    longest = max(spans, key=lambda gap: gap.length)
    yield Notice(
        Grade.DOUBTFUL if share > _MUCH else Grade.MINOR,
        meter.name,
        f"{len(spans)} {'span' if len(spans) == 1 else 'spans'} without readings, with {shared:,.2f} kWh ({share:.2%})"
        f" shared out evenly; the longest from {_local(longest.from_time)} to {_local(longest.to_time)}",
    )


def _of_counters(facts: Facts, meter: SettledMeter) -> Iterator[Notice]:
    for event in facts.events:
        if event.device_id != meter.device_id:
            continue
        went = f"{event.counter} went from {event.good_value:,.2f} to {event.value:,.2f} at {_local(event.time)}"
        if event.needs_review:
            state = (
                "it is not decided yet" if event.kind == "undecided" else "nothing was counted: somebody should look"
            )
            yield Notice(Grade.SERIOUS, meter.name, f"{went}; {state}")
        else:
            counted = "" if event.step is None else f", {event.step:,.2f} kWh counted"
            yield Notice(Grade.MINOR, meter.name, f"{went}: taken for a {event.kind}{counted}")
    for marks in facts.marks:
        if marks.device_id == meter.device_id:
            values = "value" if marks.count == 1 else "values"
            text = f"{marks.count} {values} of its counters left out ({marks.reason}): flux quality list"
            yield Notice(Grade.DOUBTFUL, meter.name, text)


def _of_agreement(facts: Facts, check: SettledMeter, tolerance: float) -> Iterator[Notice]:
    """A check meter beside the settled meters of its kind at its site."""
    mains = [m for m in facts.meters if m.settled and (m.site, m.meter_type) == (check.site, check.meter_type)]
    if not mains:
        yield Notice(Grade.MINOR, check.name, "there is no settled meter of its kind at its site to compare it with")
        return
    names = " and ".join(main.name for main in mains)
    for word, place in (("import", 0), ("export", 1)):
        main = sum(_carried(facts, meter)[place] for meter in mains)
        other = _carried(facts, check)[place]
        apart = abs(other - main)
        if apart > max(tolerance * max(main, other), _SMALL_KWH):
            of = f" ({apart / main:.2%})" if main else ""
            yield Notice(
                Grade.SERIOUS if apart > 5 * tolerance * main else Grade.DOUBTFUL,
                check.name,
                f"{word} {other:,.2f} kWh, and {names} {main:,.2f} kWh: {apart:,.2f} kWh apart{of};"
                f" {_halves(_apart(facts, mains, check, place, tolerance))} differ by more than {tolerance:.2%}",
            )


def _apart(facts: Facts, mains: Sequence[SettledMeter], check: SettledMeter, place: int, tolerance: float) -> int:
    ids = {meter.device_id for meter in mains}
    sums: dict[datetime, float] = {}
    others: dict[datetime, float] = {}
    for half in facts.half_hours:
        value = (half.import_kwh, half.export_kwh)[place]
        if value is not None and half.device_id in ids:
            sums[half.time] = sums.get(half.time, 0.0) + value
        elif value is not None and half.device_id == check.device_id:
            others[half.time] = value
    both = sums.keys() & others.keys()
    return sum(abs(sums[t] - others[t]) > max(tolerance * max(sums[t], others[t]), _SMALL_KWH) for t in both)


def _carried(facts: Facts, meter: SettledMeter) -> tuple[float, float]:
    """Imported and exported kWh of a meter's half hours."""
    mine = [half for half in facts.half_hours if half.device_id == meter.device_id]
    return sum(half.import_kwh or 0.0 for half in mine), sum(half.export_kwh or 0.0 for half in mine)


def _halves(count: int) -> str:
    return f"{count:,} half {'hour' if count == 1 else 'hours'}"


def _period(start: datetime) -> str:
    period = settlement_period(start)
    return f"{period.day} period {period.number}"


def _local(instant: datetime) -> str:
    return f"{instant.astimezone(GB_TIMEZONE):%Y-%m-%d %H:%M}"
