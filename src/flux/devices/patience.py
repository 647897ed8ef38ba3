"""How long to wait for a unit, and how often: so that one that is dead costs the others on its connection little.

A unit that has answered is given several times its slowest answer, one that never has half a second to begin with;
more than that only while nobody else wants the connection, and never more than its time limit. Once a request has
failed with all its retries, and at least three tries in a row, the unit is dead: requests fail at once, and at growing
intervals one is let through.
"""

from dataclasses import dataclass, field

_LEAST_S = 0.5
_MOST_UNSEEN_S = 2.0
_TIMES_SLOWEST = 8.0
_DEAD_AFTER = 3  # silent tries in a row
_FADE = 0.99  # of the slowest answer, with each quicker one

FIRST_PROBE_S = 1.0
LAST_PROBE_S = 30.0
_SHARE = 10.0  # a dead unit is waited for at most a tenth of the time


@dataclass(slots=True)
class Counters:
    """What happened to the requests of a unit, for its diagnostics; they only grow."""

    requests: int = 0  # tries on the wire, retries included
    retries: int = 0
    timeouts: int = 0
    faults: int = 0  # answers with a Modbus exception
    errors: int = 0  # lost connections and replies that were none
    refused: int = 0  # failed at once, because the unit or its connection is known to be down


@dataclass(slots=True)
class UnitState:
    """What is known of one unit. Times are those of the event loop, in seconds."""

    counters: Counters = field(default_factory=Counters)
    slowest_s: float | None = None
    last_response_s: float | None = None
    silent_tries: int = 0  # in a row
    waited_s: float = 0.0  # for nothing, the last time
    failed_probes: int = 0
    dead: bool = False
    probe_at: float = 0.0

    def patience_s(self, timeout_s: float) -> float:
        """How long to wait for it while others wait for the connection."""
        if self.slowest_s is None:
            enough = min(_MOST_UNSEEN_S, _LEAST_S * 2.0 ** min(self.silent_tries, 4))
        else:
            enough = max(_LEAST_S, _TIMES_SLOWEST * self.slowest_s)
        return min(timeout_s, enough)

    def answered(self, response_s: float) -> bool:
        """It answered; says whether it was thought dead."""
        was_dead, self.dead = self.dead, False
        self.silent_tries = self.failed_probes = 0
        self.last_response_s = response_s
        self.slowest_s = max(response_s, (self.slowest_s or 0.0) * _FADE)
        return was_dead

    def went_silent(self, waited_s: float) -> None:
        """One try was not answered."""
        self.silent_tries += 1
        self.waited_s = waited_s

    def given_up(self, now: float) -> bool:
        """A request failed with all its retries; says whether the unit is dead now and was not before."""
        if self.silent_tries < _DEAD_AFTER:
            return False
        was_dead, self.dead = self.dead, True
        pause = min(LAST_PROBE_S, FIRST_PROBE_S * 2.0 ** min(self.failed_probes, 10))
        self.probe_at = now + max(pause, min(LAST_PROBE_S, _SHARE * self.waited_s))
        self.failed_probes += 1
        return not was_dead

    def blocked_s(self, now: float) -> float:
        """How long it is still left alone; 0 when a request may go out."""
        return max(0.0, self.probe_at - now) if self.dead else 0.0
