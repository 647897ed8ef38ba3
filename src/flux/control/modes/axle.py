"""External dispatch: the schedule's step that holds now, as Axle sends it."""

from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeConfig, ModeContext, Propose
from flux.control.periods import ALL_DAY, PeriodConfig
from flux.control.shapes import Notice, Offer, export_avoidance, import_avoidance, site_at_rest, take_over
from flux.control.state import ScheduleStep
from flux.model import CommandSource

FULL_KW = float("inf")


class Axle(ModeConfig):
    """Does what the first step of the schedule that holds now says."""

    source: ClassVar[CommandSource] = CommandSource.AXLE
    mode: Literal["axle"] = "axle"

    def on_a_calendar(self) -> tuple[tuple[PeriodConfig, ...], str | None]:
        return (ALL_DAY,), "when dispatched"

    def build(self, context: ModeContext) -> Propose:
        def propose(cycle: Cycle) -> Offer | Notice | None:
            for step in cycle.schedule:
                if step.start <= cycle.time < step.end:
                    return _answer(step, cycle, f"until {context.clock(step.end)}")
            return None

        return propose


def _answer(step: ScheduleStep, cycle: Cycle, until: str) -> Offer | Notice:
    match step.action:
        case "charge_max":
            return take_over(-FULL_KW, f"dispatched to charge at full power {until}")
        case "discharge_max":
            return take_over(FULL_KW, f"dispatched to discharge at full power {until}")
        case "avoid_import":
            why = f"dispatched to avoid import {until}, {site_at_rest(cycle.rest_kw)}"
            return import_avoidance(cycle.rest_kw, why)
        case "avoid_export":
            why = f"dispatched to avoid export {until}, {site_at_rest(cycle.rest_kw)}"
            return export_avoidance(cycle.rest_kw, why)
    return Notice(f"dispatch {until} asks for an action that is not known: {step.action!r}")
