"""A backtest as one page: figures, pictures and months, in one HTML file that asks no other address for anything."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

import numpy as np

from flux.analysis.carpet import draw_carpet
from flux.analysis.figures import Row, rows_of
from flux.analysis.flows import Series
from flux.analysis.outcome import Outcome
from flux.charts import Line, Panel, draw_series
from flux.charts.parts import COLOURS
from flux.model import SETTLEMENT_PERIOD

_MOST_POINTS = 1_500
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#24292f;max-width:1020px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}p{margin:.2rem 0}.dim{color:#57606a}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15rem .8rem;text-align:right}
td:first-child,th:first-child{text-align:left;padding-left:0}tbody tr:nth-child(even){background:#f6f8fa}
tr.head td{font-weight:600;padding-top:.9rem;background:#fff;border-bottom:1px solid #d0d7de}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}.card{border:1px solid #d0d7de;border-radius:8px;
padding:.6rem 1rem;min-width:8.5rem}.card b{display:block;font-size:1.35rem;font-weight:600}
.note{border-left:4px solid #d4a72c;background:#fff8e5;padding:.3rem .8rem;margin:.4rem 0}
svg{max-width:100%;height:auto}.wide{overflow-x:auto}
"""
_MONTH_COLUMNS = (
    ("load_kwh", "load, kWh", 0),
    ("solar_kwh", "sun, kWh", 0),
    ("import_kwh", "import, kWh", 0),
    ("export_kwh", "export, kWh", 0),
    ("discharge_kwh", "discharged, kWh", 0),
    ("cycles", "cycles", 1),
    ("peak_import_kw", "peak import, kW", 1),
    ("cost_gbp", "energy, £", 2),
    ("earned_gbp", "earned, £", 2),
)


def report_page(outcomes: Sequence[Outcome], summaries: Sequence[dict[str, Any]]) -> str:
    """The whole page of one run, or of several over the same span."""
    first = outcomes[0]
    start, end = (instant.astimezone(first.zone) for instant in (first.timeline.start, first.timeline.end))
    title = f"Backtest of {', '.join(outcome.name for outcome in outcomes)}"
    span = f"{start:%-d %B %Y %H:%M} to {end:%-d %B %Y %H:%M} ({first.zone.key}), {first.timeline.count:,} decisions"
    notes = [
        f"{summary['name']}: {notice}" if len(outcomes) > 1 else notice
        for summary in summaries
        for notice in summary["notices"]
    ]
    figures = ["<h2>Figures</h2>", *_figures([outcome.name for outcome in outcomes], rows_of(summaries))]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">{escape(span)}</p>',
        *(_cards(summaries[0]) if len(outcomes) == 1 else []),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        *(figures if len(outcomes) > 1 else []),
        '<h2>Through the time</h2><div class="wide">',
        draw_series(_panels(outcomes), first.timeline.start, first.timeline.end, first.zone, _points_told(first)),
        "</div>",
        *_carpets(outcomes),
        *(figures if len(outcomes) == 1 else []),
        "<h2>Months</h2>",
        *_months(summaries),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _cards(summary: dict[str, Any]) -> Iterator[str]:
    """What matters most, large."""
    costs, perfect = summary["costs_gbp"], summary["perfect"]
    cards = [
        (f"{summary['battery']['cycles']:,.1f}", "cycles"),
        (f"{summary['site']['peak_import_kw']:,.0f} kW", "peak import"),
    ]
    if (own := summary["site"]["self_consumption"]) is not None:
        cards.append((f"{own:.0%}", "of the sun used here"))
    if costs is not None:
        cards.insert(0, (f"£{costs['earned']:,.0f}", "earned by the battery"))
    if perfect is not None and perfect["share"] is not None:
        cards.insert(1, (f"{perfect['share']:.0%}", f"of perfect (£{perfect['earned']:,.0f})"))
    yield '<div class="cards">'
    for value, words in cards:
        yield f'<div class="card"><b>{escape(value)}</b>{escape(words)}</div>'
    yield "</div>"


def _group(outcome: Outcome) -> int:
    """How many half hours are one point of a line."""
    half_hours = outcome.timeline.count // (SETTLEMENT_PERIOD // outcome.timeline.step)
    return -(-half_hours // _MOST_POINTS)


def _points_told(outcome: Outcome) -> str:
    length = _group(outcome) * SETTLEMENT_PERIOD
    return f"means of {length / timedelta(hours=1):g} h" if length > SETTLEMENT_PERIOD else "half hour by half hour"


def _panels(outcomes: Sequence[Outcome]) -> list[Panel]:
    several, first = len(outcomes) > 1, outcomes[0]

    def lines(name: str, values: Sequence[Series], colour: int = 0) -> list[Line]:
        named = [one.name for one in outcomes] if several else [name]
        colours = [COLOURS[(number if several else colour) % len(COLOURS)] for number in range(len(named))]
        return [
            Line(who, ink, _line(one, series))
            for who, ink, one, series in zip(named, colours, outcomes, values, strict=True)
        ]

    hours = first.timeline.step_h
    site = lines("site (+ import)", [(one.import_kwh - one.export_kwh) / hours for one in outcomes], 5)
    battery = lines("battery (+ discharge)", [(one.discharge_kwh - one.charge_kwh) / hours for one in outcomes], 1)
    panels = [Panel("SoE, kWh", lines("SoE", [one.soe_kwh for one in outcomes]), 130)]
    panels += (
        [Panel("battery, kW (+ discharge)", battery, 140), Panel("site, kW (+ import)", site, 140)]
        if several
        else [Panel("power, kW", [*site, *battery], 180)]
    )
    if not np.isnan(first.prices).all():
        panels.append(Panel("price, £/MWh", [Line("imbalance price", COLOURS[2], _line(first, first.prices))], 110))
    if first.money is not None:
        panels.append(Panel("earned so far, £", lines("earned", [_earned_so_far(one) for one in outcomes], 3), 130))
    return panels


def _earned_so_far(outcome: Outcome) -> Series:
    if outcome.money is None:
        raise ValueError("nothing was priced")
    parts = (outcome.money.without, outcome.money.flows)
    without, with_it = (np.nansum(list(flows.values()), axis=0) for flows in parts)
    total: Series = np.cumsum(without - with_it)
    return total


def _line(outcome: Outcome, values: Series) -> list[tuple[datetime, float | None]]:
    """A series, thinned to means of some half hours; a gap where one of them is missing."""
    each = _group(outcome) * (SETTLEMENT_PERIOD // outcome.timeline.step)
    firsts = range(0, outcome.timeline.count, each)
    sums = np.add.reduceat(values, list(firsts))
    counts = np.minimum(each, outcome.timeline.count - np.array(firsts))
    means = np.round(sums / counts, 3)
    step, start = outcome.timeline.step, outcome.timeline.start
    return [
        (start + number * step, None if np.isnan(mean) else float(mean))
        for number, mean in zip(firsts, means, strict=True)
    ]


def _carpets(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Which mode held when: a row for each day."""
    yield "<h2>What it was doing: a row for each day, from midnight to midnight</h2>"
    for outcome in outcomes:
        if len(outcomes) > 1:
            yield f"<p>{escape(outcome.name)}</p>"
        yield f'<div class="wide">{draw_carpet(outcome)}</div>'


def _figures(names: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if len(names) > 1:
        yield f"<thead><tr><th></th>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr></thead>"
    yield "<tbody>"
    for label, values in rows:
        cells = "".join(f"<td>{escape(value)}</td>" for value in values) or f'<td colspan="{len(names)}"></td>'
        yield f"<tr{'' if values else ' class=head'}><td>{escape(label)}</td>{cells}</tr>"
    yield "</tbody></table></div>"


def _months(summaries: Sequence[dict[str, Any]]) -> Iterator[str]:
    several = len(summaries) > 1
    columns = [column for column in _MONTH_COLUMNS if column[0] in summaries[0]["months"][0]]
    names = ["month", *(["plan"] if several else []), *(title for _, title, _ in columns)]
    yield '<div class="wide"><table><thead><tr>'
    yield f"{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr></thead><tbody>"
    for months in zip(*(summary["months"] for summary in summaries), strict=True):
        for summary, month in zip(summaries, months, strict=True):
            cells = [month["month"], *([summary["name"]] if several else [])]
            cells += [f"{month[key]:z,.{digits}f}".replace("-", "−") for key, _, digits in columns]
            yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div>"
