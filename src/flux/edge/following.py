"""Whether a battery does what it was told, and whether nobody else tells it something.

Both compare what is seen with every command of the recent past, not the newest alone: a battery ramps, a meter lags,
a set-point is rounded. Powers in kW, + discharge.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from flux.control.state import AcknowledgedCommand, Measurement

_STRIKES = 5
_SHOWN_FOR = timedelta(seconds=60)
"""How long a device may go on showing a set-point that has been replaced."""
_SIGHTINGS = 2


class RecentCommands:
    """The acknowledged commands that were in force within the last minute."""

    def __init__(self) -> None:
        self._commands: deque[AcknowledgedCommand] = deque()

    def add(self, command: AcknowledgedCommand) -> None:
        self._commands.append(command)
        while len(self._commands) > 1 and self._commands[1].time < command.time - _SHOWN_FOR:
            self._commands.popleft()

    def since(self, instant: datetime) -> list[float]:
        """The powers in force at ``instant`` or later, oldest first; empty when the first came later than that."""
        if not self._commands or self._commands[0].time > instant:
            return []
        later = [command.power_kw for command in self._commands if command.time > instant]
        before = [command.power_kw for command in self._commands if command.time <= instant]
        return [before[-1], *later]


class Following:
    """Counts the cycles in which a measured battery is away from all that it was told, and does not come nearer."""

    def __init__(self, window: timedelta, tolerance_kw: float) -> None:
        """``window``: how long a command may take until it is seen in the measurement."""
        self._window = window
        self._tolerance_kw = tolerance_kw
        self._strikes = 0
        self._away_kw = 0.0
        self._looked_at: datetime | None = None

    @property
    def failing(self) -> bool:
        return self._strikes >= _STRIKES

    def look(self, measured: Measurement, recent: RecentCommands, reachable: Callable[[float], float]) -> bool:
        """Judge a measurement; True when the battery has just been found not to follow.

        ``reachable`` is what the battery can carry of a power: what it reports explains what it does not do.
        """
        if self._looked_at is not None and measured.time <= self._looked_at:
            return False
        self._looked_at = measured.time
        told = recent.since(measured.time - self._window)
        if not told:
            return False
        allowed = [*told, *(reachable(power) for power in told)]
        away_kw = max(min(allowed) - measured.value, measured.value - max(allowed), 0.0)
        nearer = away_kw < self._away_kw - self._tolerance_kw / 4
        self._away_kw = away_kw
        if away_kw <= self._tolerance_kw:
            self._strikes = 0
        elif not nearer:
            self._strikes += 1
            return self._strikes == _STRIKES
        return False


class OtherMaster:
    """Finds set-points that nobody here has written.

    A register that is written and read holds one of the values that were written to it; 0 is a device that started
    anew. Where only the target that the device steers to can be read, that lies between 0 and what it was told.
    """

    def __init__(self) -> None:
        self._written: dict[str, deque[tuple[datetime, float]]] = {}
        self._sightings: deque[datetime] = deque()

    def wrote(self, name: str, value: float, time: datetime) -> None:
        """``value`` was acknowledged by the register ``name``."""
        values = self._written.setdefault(name, deque())
        values.append((time, value))
        while len(values) > 1 and values[1][0] < time - _SHOWN_FOR:
            values.popleft()

    def forget(self) -> None:
        """Begin anew: what is at the battery now is for the next command to replace."""
        self._written.clear()
        self._sightings.clear()

    def in_register(self, name: str, value: object) -> str | None:
        """What is wrong with ``value``, read from a register that is written too."""
        ours = self._written.get(name)
        if not ours or not isinstance(value, int | float) or value == 0 or value in [one for _, one in ours]:
            return None
        return f"register {name} holds {value:g}, {ours[-1][1]:g} was written"

    def in_target(self, shown_kw: float, recent: RecentCommands, time: datetime) -> str | None:
        """What is wrong with the target that the device shows; it takes two sightings within a minute."""
        told = recent.since(time - _SHOWN_FOR)
        if not told:
            return None
        tolerance_kw = 0.5 + 0.01 * max(abs(power) for power in told)
        if min(*told, 0.0) - tolerance_kw <= shown_kw <= max(*told, 0.0) + tolerance_kw:
            return None
        if not self._sightings or time > self._sightings[-1]:
            self._sightings.append(time)
        while self._sightings[0] < time - _SHOWN_FOR:
            self._sightings.popleft()
        if len(self._sightings) < _SIGHTINGS:
            return None
        return f"it shows a target of {shown_kw:.1f} kW, {told[-1]:.1f} kW was its last command"
