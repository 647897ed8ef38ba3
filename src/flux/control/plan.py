"""The plan: the ``controller:`` section of ``site.yaml``, checked whole when it is loaded.

A wrong plan is refused with one line for each problem: ``site.yaml:12: controller.battery.soe_max_kwh: 600.0: …``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, field_validator, model_validator

from flux.config import YamlDocument, load_yaml
from flux.control.compiled import CompiledPlan, compile_plan
from flux.control.modes import AnyMode
from flux.control.modes.base import Problem
from flux.control.parts import BatteryConfig, Periods, PlanPart, RatesConfig, SiteConfig
from flux.control.periods import format_clock, overlap
from flux.control.zones import CalendarName, ZoneName
from flux.errors import InputError
from flux.model import DeviceName, Duration

SECTION = "controller"
_MAX_PROBLEMS = 10


def _more_than_nothing(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be more than 0s")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_more_than_nothing)]


class PlanFields(PlanPart):
    """Every key of the plan, each checked by itself."""

    site_meter: DeviceName = Field(description="the meter at the grid connection; + import")
    bess: tuple[DeviceName, ...] = Field(min_length=1, description="the batteries that the plan controls")
    bess_meter: tuple[DeviceName, ...] = Field(default=(), description="their meters, in the same order")
    without_timeout: Literal["accepted"] | None = Field(
        default=None,
        description="accept a battery without a command timeout: on stale data it is sent 0 kW instead of nothing",
    )
    interval: PositiveDuration = timedelta(seconds=4)
    max_reading_age: PositiveDuration = timedelta(seconds=10)
    timezone: ZoneName = Field(
        default="Europe/London", description="IANA name; the plan's times of day are quoted in it"
    )
    holidays: CalendarName | None = Field(
        default=None, description="public holidays that count as weekend, like GB-ENG"
    )
    battery: BatteryConfig
    site: SiteConfig
    rates: RatesConfig = RatesConfig()
    modes: tuple[AnyMode, ...] = Field(default=(), description="highest priority first")

    @field_validator("bess", "bess_meter")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f"{name!r} is named twice")
        return names

    @field_validator("bess_meter")
    @classmethod
    def _a_meter_for_each_battery(cls, meters: tuple[str, ...], info: Any) -> tuple[str, ...]:
        batteries = info.data.get("bess", ())
        if meters and batteries and len(meters) != len(batteries):
            raise ValueError(
                f"{len(meters)} meters for {len(batteries)} batteries; name one for each, in the same order"
            )
        return meters

    def problems(self) -> Iterator[Problem]:
        """What is wrong between parts that are right by themselves."""
        for number, mode in enumerate(self.modes):
            for path, message in mode.problems(self.battery):
                yield ("modes", number, *path), message

    def overlaps(self) -> Iterator[Problem]:
        """Lists of periods of which two hold at once: the first would count, and one of the two is a mistake."""
        for path, periods in self._period_lists():
            found = overlap(periods, ZoneInfo(self.timezone))
            if found:
                first, second = periods[found[0]], periods[found[1]]
                spans = [f"{format_clock(p.start)}–{format_clock(p.end)}" for p in (second, first)]
                yield (
                    (*path, found[1]),
                    f"{spans[0]} overlaps {spans[1]} of the same list (number {found[0] + 1} of it)",
                )

    def _period_lists(self) -> Iterator[tuple[tuple[int | str, ...], Periods]]:
        for number, mode in enumerate(self.modes):
            for path, periods in mode.period_lists():
                yield ("modes", number, *path), periods
        for direction, rates in (("import", self.rates.import_), ("export", self.rates.export)):
            for number, rate in enumerate(rates):
                yield ("rates", direction, number, "periods"), rate.periods


class ControllerPlan(PlanFields):
    """A plan that holds together. Overlapping periods are a matter of :func:`parse_plan`."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for path, message in self.problems():
            raise ValueError(f"{'.'.join(map(str, path))}: {message}")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that is checked like any plan, and compiled anew: pydantic's own would keep what was compiled."""
        del deep  # every part is frozen
        return type(self)(**{name: getattr(self, name) for name in PlanFields.model_fields} | dict(update or {}))

    def __getstate__(self) -> dict[Any, Any]:
        """For pickle, without what was compiled: it is functions, and made again where it is needed."""
        state = super().__getstate__()
        return state | {"__dict__": {name: getattr(self, name) for name in PlanFields.model_fields}}

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @cached_property
    def compiled(self) -> CompiledPlan:
        """The plan ready to decide: modes built, periods as timetables."""
        return compile_plan(self)


def load_plan(path: Path, *, allow_overlaps: bool = False) -> ControllerPlan:
    """Read a plan from a file: a whole ``site.yaml`` with its ``controller:`` section, or that section alone."""
    return parse_plan(load_yaml(path), allow_overlaps=allow_overlaps)


def parse_plan(
    doc: YamlDocument, *, allow_overlaps: bool = False, section: tuple[str, ...] | None = None
) -> ControllerPlan:
    """Check a plan whole and make it ready; all problems come in one :class:`InputError`, a line each.

    ``section``: where in the file the plan is; None: :func:`section_of`. ``allow_overlaps`` lets periods of one list
    overlap (the first that holds counts): for what-if, not for a site.
    """
    at = section_of(doc) if section is None else section
    fields = doc.parse(PlanFields, at)
    problems = [*fields.problems(), *(() if allow_overlaps else fields.overlaps())]
    if problems:
        lines = [str(doc.error((*at, *path), message)) for path, message in problems[:_MAX_PROBLEMS]]
        raise InputError("\n".join(lines))
    plan = ControllerPlan(**{name: getattr(fields, name) for name in PlanFields.model_fields})
    _ = plan.compiled
    return plan


def section_of(doc: YamlDocument) -> tuple[str, ...]:
    """Where in the file the plan stands: under ``controller:``, or it is the file."""
    whole = isinstance(doc.data, Mapping) and SECTION in doc.data
    if not whole and isinstance(doc.data, Mapping) and isinstance(doc.data.get("site"), str):  # a plan's is a section
        raise InputError(f"{doc.source}: this site file has no `{SECTION}:` section, so there is no plan in it")
    return (SECTION,) if whole else ()


def plan_hash(plan: ControllerPlan) -> str:
    """16 hex digits that differ between plans that differ in any value; comments and order of keys don't count."""
    body = json.dumps(plan.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()[:16]
