"""A set-point by hand, until a time."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, WithJsonSchema

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeConfig, ModeContext, Propose
from flux.control.numbers import Finite
from flux.control.parts import BatteryConfig
from flux.control.periods import ALL_DAY, PeriodConfig, Window, instant_of
from flux.control.shapes import Offer, in_words, take_over
from flux.model import CommandSource


def _parse_instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("not a time; write it like 2026-01-15T18:00:00Z") from None
    if isinstance(value, datetime):
        return datetime.fromisoformat(value.isoformat())  # a plain one: YAML's remembers how it was written
    raise ValueError("not a time; write it like 2026-01-15T18:00:00Z")


class Fixed(ModeConfig):
    """Holds ``power_kw`` (+ discharge, − charge) until ``until``; without an offset that is local time of the plan."""

    source: ClassVar[CommandSource] = CommandSource.MANUAL
    mode: Literal["fixed"] = "fixed"
    power_kw: Finite
    until: Annotated[
        datetime, BeforeValidator(_parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})
    ]

    def on_a_calendar(self) -> tuple[tuple[PeriodConfig, ...], str | None]:
        return (ALL_DAY,), None

    def asked_in(self, window: Window, battery: BatteryConfig, zone: ZoneInfo) -> Window | None:
        del battery
        until = _instant(self.until, zone)
        return Window(window.start, min(window.end, until), window.index) if window.start < until else None

    def build(self, context: ModeContext) -> Propose:
        until = _instant(self.until, context.zone)
        why = f"fixed set-point until {context.clock(until)} on {until.astimezone(context.zone):%d %B}"
        offer = take_over(self.power_kw, f"{why}, {in_words(self.power_kw)}")

        def propose(cycle: Cycle) -> Offer | None:
            return offer if cycle.time < until else None

        return propose


def _instant(value: datetime, zone: ZoneInfo) -> datetime:
    if value.tzinfo is not None:
        return value.astimezone(UTC)
    clock = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second)
    return instant_of(value.date(), int(clock.total_seconds()), zone)
