"""Tariff files: what each direction pays for a MWh, and what a day costs. docs/tariffs.md describes every key.

A wrong file is refused with one line for each problem: ``tariff.yaml:12: rates.import[1].price: 'a lot': …``.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import date
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flux.analysis.flows import Direction
from flux.config import YamlDocument, load_yaml
from flux.control.numbers import Finite, Positive
from flux.control.parts import Periods, PlanPart
from flux.control.periods import ALL_DAY, format_clock, overlap
from flux.control.zones import CalendarName, ZoneName
from flux.errors import InputError

_MAX_PROBLEMS = 10


class Market(StrEnum):
    """A price of the market that a rate may follow, £/MWh."""

    IMBALANCE = "imbalance"
    DAY_AHEAD = "day_ahead"


def _a_day(value: object) -> object:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("not a day; write it like 2024-04-01") from None
    if not isinstance(value, date):
        raise ValueError("not a day; write it like 2024-04-01")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _not_blank(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty")
    return name


Day = Annotated[date, BeforeValidator(_a_day)]
Name = Annotated[str, AfterValidator(_not_blank)]


class _InForce(PlanPart):
    """What is in force from a local day to another; the last day is not included."""

    name: Name
    from_: Day | None = Field(default=None, alias="from", description="first local day; default: always was")
    to: Day | None = Field(default=None, description="first local day on which it no longer is in force")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.from_ is not None and self.to is not None and self.to <= self.from_:
            raise ValueError(f"to: {self.to} is not after from: {self.from_}, so it is never in force")
        return self


class TariffRate(_InForce):
    """One rate of a direction: a fixed price, one that follows a market, or a share of the other rates.

    £/MWh at the site's meter once multiplied by its supply point's loss factor; + cost, − income.
    """

    price: Finite | None = Field(default=None, description="£/MWh")
    market: Market | None = Field(default=None, description="factor × that price + offset, between floor and cap")
    share: Finite | None = Field(default=None, description="of the sum of the direction's other rates; 0.05 is 5 %")
    factor: Finite = 1.0
    offset: Finite = 0.0
    floor: Finite | None = Field(default=None, description="£/MWh, before the loss factor")
    cap: Finite | None = Field(default=None, description="£/MWh, before the loss factor")
    of: tuple[Name, ...] | None = Field(default=None, min_length=1, description="the rates that it is a share of")
    supply_point: str | None = Field(default=None, description="whose loss factor applies; default: none")
    periods: Periods = (ALL_DAY,)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [key for key in ("price", "market", "share") if getattr(self, key) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs one of price, market and share, and has {' and '.join(kinds) or 'none'}")
        allowed = {"market": {"factor", "offset", "floor", "cap"}, "share": {"of"}}.get(kinds[0], set())
        for key in ("factor", "offset", "floor", "cap", "of"):
            if key in self.model_fields_set and key not in allowed:
                raise ValueError(f"{key} has no meaning beside {kinds[0]}")
        if self.share is not None and self.supply_point is not None:
            raise ValueError("supply_point has no meaning beside share: the other rates have their losses already")
        if self.floor is not None and self.cap is not None and self.floor > self.cap:
            raise ValueError(f"floor: {self.floor:g} is above cap: {self.cap:g}")
        return self


class DailyCharge(_InForce):
    """What each local day costs, whatever flows."""

    charge: Finite = Field(description="£ per local day; + cost, − income")


Rates = tuple[TariffRate, ...]


class DirectionRates(PlanPart):
    """The rates of each direction; all that hold are added up, and a flow pays every direction that it is part of."""

    import_: Rates = Field(default=(), alias="import")
    export: Rates = ()
    load: Rates = ()
    solar_to_load: Rates = ()
    solar_to_battery: Rates = ()
    solar_to_grid: Rates = ()
    grid_to_load: Rates = ()
    grid_to_battery: Rates = ()
    battery_to_load: Rates = ()
    battery_to_grid: Rates = ()

    def of(self, direction: Direction) -> Rates:
        rates: Rates = getattr(self, "import_" if direction is Direction.IMPORT else direction.value)
        return rates


class Tariff(PlanPart):
    """A whole tariff file."""

    name: str | None = None
    timezone: ZoneName = Field(default="Europe/London", description="of the periods and of the local days")
    holidays: CalendarName | None = Field(
        default=None, description="public holidays that count as weekend, like GB-ENG; default: none do"
    )
    supply_points: dict[str, Positive] = Field(default_factory=dict, description="loss factor of each, by name")
    rates: DirectionRates
    daily: tuple[DailyCharge, ...] = ()

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def markets(self) -> set[Market]:
        """The market prices that it takes to price every step."""
        return {rate.market for direction in Direction for rate in self.rates.of(direction) if rate.market}

    def problems(self) -> Iterator[tuple[tuple[int | str, ...], str]]:
        """What is wrong between parts that are right by themselves."""
        if not any(self.rates.of(direction) for direction in Direction):
            yield ("rates",), "names no rate"
        for direction in Direction:
            rates = self.rates.of(direction)
            for number, rate in enumerate(rates):
                for path, message in _problems_of(rate, rates[:number], rates, self):
                    yield ("rates", direction.value, number, *path), message


def _problems_of(
    rate: TariffRate, before: Sequence[TariffRate], rates: Sequence[TariffRate], tariff: "Tariff"
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    if any(other.name == rate.name and _meet(other, rate) for other in before):
        yield ("name",), f"{rate.name!r} is named twice for the same days"
    if rate.supply_point is not None and rate.supply_point not in tariff.supply_points:
        known = ", ".join(tariff.supply_points) or "none"
        yield ("supply_point",), f"{rate.supply_point!r} is no supply point of this tariff; there are: {known}"
    for name in rate.of or ():
        others = [other for other in rates if other.name == name]
        if not others:
            yield ("of",), f"{name!r} is no rate of this direction"
        elif any(other.share is not None for other in others):
            yield ("of",), f"{name!r} is a share itself"
    found = overlap(rate.periods, ZoneInfo(tariff.timezone))
    if found:
        first, second = (rate.periods[place] for place in found)
        spans = [f"{format_clock(p.start)}–{format_clock(p.end)}" for p in (second, first)]
        yield ("periods", found[1]), f"{spans[0]} overlaps {spans[1]} of the same rate"


def _meet(one: TariffRate, other: TariffRate) -> bool:
    """Whether some day has both in force: a new price may follow an old one under the same name."""
    return (one.to is None or other.from_ is None or other.from_ < one.to) and (
        other.to is None or one.from_ is None or one.from_ < other.to
    )


def imbalance_tariff() -> Tariff:
    """What is paid where no tariff is given: the imbalance price, both ways."""
    bought = TariffRate(name="imbalance price", market=Market.IMBALANCE)
    sold = TariffRate(name="imbalance price", market=Market.IMBALANCE, factor=-1.0)
    return Tariff(name="imbalance price", rates=DirectionRates(import_=(bought,), export=(sold,)))


def load_tariff(path: Path) -> Tariff:
    """Read and check a tariff file; all problems come in one :class:`InputError`, a line each."""
    return parse_tariff(load_yaml(path))


def parse_tariff(doc: YamlDocument) -> Tariff:
    """Check a tariff whole."""
    tariff = doc.parse(Tariff)
    problems = [str(doc.error(path, message)) for path, message in tariff.problems()]
    if problems:
        raise InputError("\n".join(problems[:_MAX_PROBLEMS]))
    return tariff


def tariff_hash(tariff: Tariff) -> str:
    """16 hex digits that differ between tariffs that differ in any value."""
    body: Any = tariff.model_dump(mode="json", by_alias=True)
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
