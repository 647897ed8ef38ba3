"""Import avoidance while the electricity system is short."""

from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Propose
from flux.control.outlook import NO_GUESS, GuessConfig, outlook
from flux.control.shapes import Offer, import_avoidance, site_at_rest
from flux.model import CommandSource


class ImportAvoidanceWhenShort(PeriodicMode):
    """Keeps the site from importing, in its periods, while the outlook says short."""

    source: ClassVar[CommandSource] = CommandSource.IMPORT_AVOIDANCE
    mode: Literal["import_avoidance_when_short"] = "import_avoidance_when_short"
    when_short: GuessConfig = NO_GUESS

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)

        def propose(cycle: Cycle) -> Offer | None:
            if periods.holding(cycle.time) is None:
                return None
            market = outlook(cycle, short=self.when_short)
            if market is None or not market.short:
                return None
            why = f"import avoidance when short, {market.in_words()}, {site_at_rest(cycle.rest_kw)}"
            return import_avoidance(cycle.rest_kw, why)

        return propose
