"""The set-point that somebody gave a battery by hand: one at a time, in memory, until its end.

It ends by itself, by the next one, by a stop and with the edge: nobody has to remember it.
"""

from datetime import datetime

import structlog

from flux.control.state import SetPoint

_logger = structlog.get_logger(__name__)


class ByHand:
    """``ended``: why the last one ended; None while it is in force, and before the first."""

    def __init__(self) -> None:
        self._given: SetPoint | None = None
        self.ended: str | None = None

    def give(self, set_point: SetPoint) -> None:
        """In force from now on, in place of the one before."""
        if self._given is not None:
            self.end("another one was given")
        self._given, self.ended = set_point, None
        _logger.info(
            "set-point by hand",
            device=set_point.battery,
            power_kw=set_point.power_kw,
            until=set_point.until.isoformat(),
            by=set_point.actor,
        )

    def end(self, why: str) -> bool:
        """Let the plan go on; False: there was none."""
        if self._given is None:
            return False
        _logger.info("set-point by hand ended", device=self._given.battery, why=why)
        self._given, self.ended = None, why
        return True

    def at(self, now: datetime, stopped: str | None) -> SetPoint | None:
        """The one in force at ``now``; ``stopped``: why control rests, which ends it."""
        if self._given is not None and stopped is not None:
            self.end(stopped)
        if self._given is not None and now >= self._given.until:
            self.end("its time was over")
        return self._given
