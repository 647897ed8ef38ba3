"""Import avoidance: the battery meets what the site would draw."""

from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Propose
from flux.control.shapes import Offer, import_avoidance
from flux.model import CommandSource


class ImportAvoidance(PeriodicMode):
    """Keeps the site from importing, in its periods."""

    source: ClassVar[CommandSource] = CommandSource.IMPORT_AVOIDANCE
    mode: Literal["import_avoidance"] = "import_avoidance"

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)

        def propose(cycle: Cycle) -> Offer | None:
            return import_avoidance(cycle.rest_kw) if periods.holding(cycle.time) else None

        return propose
