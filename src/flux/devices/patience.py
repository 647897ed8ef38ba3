"""How long to wait for a unit, and how often: so that one that is dead costs the others on its connection little.

While another unit wants the connection, a unit is given several times its slowest answer, or half a second if it never
gave one, and more with each try that it leaves unanswered, up to two seconds; else, and at most, its time limit. An
answer that comes late counts as well: a unit that is slow is soon given the time that it needs. Once a request has
failed with all its retries, and at least three tries in a row, the unit is dead: requests fail at once, and at growing
intervals one is let through. A unit that has the connection to itself is tried every second.
"""

from dataclasses import dataclass, field

_LEAST_S = 0.5
_MOST_S = 2.0
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

    waiting: int = 0  # requests that wait for their turn

    @property
    def usual_s(self) -> float:
        """After how long without an answer it is fair to say that the unit was silent."""
        return max(_LEAST_S, _TIMES_SLOWEST * (self.slowest_s or 0.0))

    def patience_s(self, timeout_s: float) -> float:
        """How long to wait for it while others wait for the connection."""
        usual = self.usual_s
        grown = min(max(_MOST_S, usual), usual * 2.0 ** min(self.silent_tries, 4))
        return min(timeout_s, grown)

    def took(self, response_s: float) -> None:
        """An answer, or a gateway's word on its behalf, came after so long."""
        self.last_response_s = response_s
        self.slowest_s = max(response_s, (self.slowest_s or 0.0) * _FADE)

    def answered(self, response_s: float) -> bool:
        """It answered; says whether it was thought dead."""
        was_dead, self.dead = self.dead, False
        self.silent_tries = self.failed_probes = 0
        self.took(response_s)
        return was_dead

    def went_silent(self, waited_s: float) -> None:
        """One try was not answered."""
        self.silent_tries += 1
        self.waited_s = waited_s

    def given_up(self, now: float, *, alone: bool) -> bool:
        """A request failed with all its retries; says whether the unit is dead now and was not before.

        ``alone``: no other unit is on its connection.
        """
        if self.silent_tries < _DEAD_AFTER:
            return False
        was_dead, self.dead = self.dead, True
        pause_s = min(LAST_PROBE_S, FIRST_PROBE_S * 2.0 ** min(self.failed_probes, 10))
        pause_s = max(pause_s, min(LAST_PROBE_S, _SHARE * self.waited_s))
        self.probe_at = now + (FIRST_PROBE_S if alone else pause_s)
        self.failed_probes += 1
        return not was_dead

    def blocked_s(self, now: float) -> float:
        """How long it is still left alone; 0 when a request may go out."""
        return max(0.0, self.probe_at - now) if self.dead else 0.0
