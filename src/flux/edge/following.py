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
_TRIES_KEPT = 1000
_ENERGY, _ENERGY_UNSEEN, _ENERGY_BACK, _ENERGY_STEPS = 0.002, 0.01, 0.0002, 4
_FAILS_BELOW, _FOLLOWS_FROM = 0.25, 0.5
"""Of the energy that was commanded: a battery that gives less has not followed, one that gives more has."""


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


class StoredEnergy:
    """Whether a battery that nothing measures does what it acknowledges: its stored energy must move with it.

    Judged each time that the commands add up to 0.2 % of the capacity, or to four of the smallest steps in which the
    battery shows its energy if that is more; to 1 % as long as no step was seen. One that fails is judged ten times as
    often: until it is believed again its own power looks like a change of the load. Energies in kWh.
    """

    def __init__(self, capacity_kwh: float) -> None:
        self._capacity_kwh = capacity_kwh
        self._mark_kwh: float | None = None
        self._expected_kwh = 0.0
        self._last: tuple[datetime, float] | None = None
        self._step_kwh: float | None = None
        self.failing = False

    def forget(self) -> None:
        """What was commanded since the last judgement does not count: it timed out, or somebody else commands."""
        self._mark_kwh, self._expected_kwh, self._last = None, 0.0, None

    def look(self, soe: Measurement, commanded_kw: float) -> bool:
        """Take in a reading with the power that was in force before it; True when it has just been found to fail."""
        if self._last is None or self._mark_kwh is None:
            self._last, self._mark_kwh = (soe.time, soe.value), soe.value
            return False
        elapsed_h = (soe.time - self._last[0]) / timedelta(hours=1)
        if elapsed_h <= 0:
            return False
        moved_kwh = abs(soe.value - self._last[1])
        if moved_kwh > 0:
            self._step_kwh = moved_kwh if self._step_kwh is None else min(self._step_kwh, moved_kwh)
        self._last = soe.time, soe.value
        self._expected_kwh -= commanded_kw * elapsed_h
        if abs(self._expected_kwh) < self._enough_kwh:
            return False
        return self._judge(soe.value)

    @property
    def _enough_kwh(self) -> float:
        if self._step_kwh is None:
            return _ENERGY_UNSEEN * self._capacity_kwh
        share = _ENERGY_BACK if self.failing else _ENERGY
        return max(share * self._capacity_kwh, _ENERGY_STEPS * self._step_kwh)

    def _judge(self, soe_kwh: float) -> bool:
        assert self._mark_kwh is not None  # noqa: S101 - the caller has looked
        part = (soe_kwh - self._mark_kwh) / self._expected_kwh
        self._mark_kwh, self._expected_kwh = soe_kwh, 0.0
        before = self.failing
        if part < _FAILS_BELOW or part > _FOLLOWS_FROM:
            self.failing = part < _FAILS_BELOW
        return self.failing and not before


class OtherMaster:
    """Finds set-points that nobody here has written.

    A register that is written and read holds one of the values that were written to it; 0 is a device that started
    anew. Where only the target that the device steers to can be read, that lies between 0 and what it was told.
    A write whose answer was lost may have been taken, and stands there until the next one that is acknowledged.
    """

    def __init__(self) -> None:
        self._tried: dict[str, deque[float]] = {}
        self._tried_kw: deque[float] = deque(maxlen=_TRIES_KEPT)
        self._tried_until: datetime | None = None
        self._written: dict[str, deque[tuple[datetime, float]]] = {}
        self._sightings: deque[datetime] = deque()

    def wrote(self, name: str, value: float, time: datetime) -> None:
        """``value`` was acknowledged by the register ``name``."""
        values = self._written.setdefault(name, deque())
        values.extend((time, tried) for tried in self._tried.pop(name, ()))
        values.append((time, value))
        while len(values) > 1 and values[1][0] < time - _SHOWN_FOR:
            values.popleft()

    def tried(self, name: str, value: float) -> None:
        """``value`` was written to the register ``name``, and whether the device took it is not known."""
        tries = self._tried.setdefault(name, deque(maxlen=_TRIES_KEPT))
        if value not in tries:
            tries.append(value)

    def tried_power(self, power_kw: float) -> None:
        """The same of a set-point that can't be read."""
        if power_kw not in self._tried_kw:
            self._tried_kw.append(power_kw)
        self._tried_until = None

    def took_power(self, time: datetime) -> None:
        """A command was acknowledged: what was only tried before it may show for a little longer."""
        if self._tried_kw and self._tried_until is None:
            self._tried_until = time + _SHOWN_FOR

    def forget(self) -> None:
        """Begin anew: what is at the battery now is for the next command to replace."""
        self._written.clear()
        self._tried.clear()
        self._tried_kw.clear()
        self._sightings.clear()

    def in_register(self, name: str, value: object) -> str | None:
        """What is wrong with ``value``, read from a register that is written too."""
        ours = self._written.get(name)
        if not ours or not isinstance(value, int | float) or value == 0 or value in [one for _, one in ours]:
            return None
        if value in self._tried.get(name, ()):
            return None
        return f"register {name} holds {value:g}, {ours[-1][1]:g} was written"

    def in_target(self, shown_kw: float, recent: RecentCommands, time: datetime) -> str | None:
        """What is wrong with the target that the device shows; it takes two sightings within a minute."""
        told = recent.since(time - _SHOWN_FOR)
        if not told:
            return None
        if self._tried_until is not None and time > self._tried_until:
            self._tried_kw.clear()
            self._tried_until = None
        last_kw = told[-1]
        told.extend(self._tried_kw)
        tolerance_kw = 0.5 + 0.01 * max(abs(power) for power in told)
        if min(*told, 0.0) - tolerance_kw <= shown_kw <= max(*told, 0.0) + tolerance_kw:
            return None
        if not self._sightings or time > self._sightings[-1]:
            self._sightings.append(time)
        while self._sightings[0] < time - _SHOWN_FOR:
            self._sightings.popleft()
        if len(self._sightings) < _SIGHTINGS:
            return None
        return f"it shows a target of {shown_kw:.1f} kW, {last_kw:.1f} kW was its last command"
