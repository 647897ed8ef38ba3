"""Export avoidance: the battery takes up what the site would export."""

from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Propose
from flux.control.shapes import Offer, export_avoidance
from flux.model import CommandSource


class ExportAvoidance(PeriodicMode):
    """Keeps the site from exporting, in its periods."""

    source: ClassVar[CommandSource] = CommandSource.EXPORT_AVOIDANCE
    mode: Literal["export_avoidance"] = "export_avoidance"

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)

        def propose(cycle: Cycle) -> Offer | None:
            return export_avoidance(cycle.rest_kw) if periods.holding(cycle.time) else None

        return propose
