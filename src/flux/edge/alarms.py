"""What is wrong at the moment. Each alarm is logged once when it comes and once when it goes."""

from dataclasses import dataclass
from datetime import datetime

import structlog

from flux.edge.ticks import Clock

_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at; ``key`` names it for as long as it lasts."""

    key: str
    text: str
    since: datetime


class Alarms:
    """The alarms of one edge, by key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active: dict[str, Alarm] = {}

    @property
    def active(self) -> tuple[Alarm, ...]:
        return tuple(self._active.values())

    def set(self, key: str, text: str) -> None:
        """Raise the alarm ``key``; one that is up already keeps its time and takes the new text, without a log line."""
        known = self._active.get(key)
        since = known.since if known else self._clock()
        self._active[key] = Alarm(key, text, since)
        if known is None:
            _logger.error("alarm", alarm=key, text=text)

    def clear(self, key: str, note: str = "") -> None:
        """Take the alarm ``key`` down; ``note`` sums up what it cost. Nothing happens when it is not up."""
        alarm = self._active.pop(key, None)
        if alarm is not None:
            lasted_s = round((self._clock() - alarm.since).total_seconds(), 3)
            _logger.info("alarm over", alarm=key, lasted_s=lasted_s, note=note or alarm.text)

    def set_or_clear(self, key: str, text: str | None) -> None:
        """Raise ``key`` with ``text``, or take it down when ``text`` is None."""
        if text is None:
            self.clear(key)
        else:
            self.set(key, text)
