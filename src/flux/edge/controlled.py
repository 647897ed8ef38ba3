"""One battery under control: what it measures, what it may do, what it was last told and acknowledged."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from flux.control.state import AcknowledgedCommand, BatteryCapability, Measurement
from flux.devices.commander import Write
from flux.devices.control import Step
from flux.devices.driver import Command, Poll
from flux.devices.rounding import Range
from flux.edge.daily import DailyCount
from flux.edge.following import Following, OtherMaster, RecentCommands, StoredEnergy
from flux.edge.newest import NewestPolls
from flux.edge.ticks import Clock
from flux.model import BessMetadata, CommandSource, Device, FluxError

_logger = structlog.get_logger(__name__)

DEAD_BAND_KW = 0.01
"""A target that differs by less from the power last acknowledged is not sent; 0 kW always is."""
_HEARTBEATS_PER_TIMEOUT = 3
_HEARTBEAT_WITHOUT_TIMEOUT = timedelta(seconds=60)
_SHORTEST_SETTLE = timedelta(seconds=2)
_SURELY_KW = 1.0
_SHORTEST_WINDOW = timedelta(seconds=10)
_CYCLES_PER_WINDOW = 3
_TOLERANCE_KW = 1.0
_TOLERANCE_SHARE = 0.05
_FULL_PCT = 99.5
_EMPTY_PCT = 0.5

Tell = Callable[[str, str | None], None]
"""Raises the alarm of that key with a text, or takes it down with None."""


class MeteredDevice(Protocol):
    """What the controller needs of a meter's driver."""

    @property
    def device(self) -> Device: ...

    @property
    def control_names(self) -> frozenset[str]: ...

    def measured_power_kw(self, poll: Poll) -> float | None: ...


class CommandedDevice(MeteredDevice, Protocol):
    """What the controller needs of a battery's driver."""

    @property
    def blocks_total(self) -> int | None: ...

    @property
    def command_timeout_s(self) -> float | None: ...

    def soe_pct(self, poll: Poll) -> float | None: ...

    def charge_limit_kw(self, poll: Poll) -> float | None: ...

    def discharge_limit_kw(self, poll: Poll) -> float | None: ...

    def available_blocks(self, poll: Poll) -> int | None: ...

    @property
    def owner_names(self) -> frozenset[str]: ...

    @property
    def register_writes(self) -> int: ...

    @property
    def tried(self) -> Sequence[Write]: ...

    @property
    def power_step_kw(self) -> float: ...

    def rounded(self, power_kw: float, inside: Range | None = None) -> float: ...

    async def command(
        self, power_kw: float, *, inside: Range | None = None, within_s: float | None = None
    ) -> Command: ...

    async def read_back(self, command: Command) -> Mapping[str, tuple[float, object]]: ...

    def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BatteryState:
    """What one battery said last. ``power`` is measured (+ discharge), None where nothing measures it."""

    soe_kwh: Measurement | None
    power: Measurement | None
    capability: BatteryCapability


class ControlledBattery:
    """A battery with its meter, if it has one."""

    def __init__(
        self,
        driver: CommandedDevice,
        meter: MeteredDevice | None,
        newest: NewestPolls,
        capacity_kwh: float,
        *,
        limit_kw: float,
        interval: timedelta,
        clock: Clock,
        tell: Tell = lambda _key, _text: None,
    ) -> None:
        """``capacity_kwh`` and ``limit_kw`` are the plan's; the metadata of the device goes first for the capacity."""
        self.driver = driver
        self.meter = meter
        self._newest = newest
        own_kwh = driver.device.metadata.capacity_kwh if isinstance(driver.device.metadata, BessMetadata) else None
        self.capacity_kwh = capacity_kwh if own_kwh is None else own_kwh
        self._clock = clock
        self._tell = tell
        self._failing = False
        self._lost = False
        self._set_up_again_at: datetime | None = None
        self.last_command: AcknowledgedCommand | None = None
        self.other_master: str | None = None
        self.waits: str | None = None
        self._waits_since: datetime | None = None
        self.writes = DailyCount()
        self._recent = RecentCommands()
        self._following = Following(
            max(_SHORTEST_WINDOW, _CYCLES_PER_WINDOW * interval), max(_TOLERANCE_KW, _TOLERANCE_SHARE * limit_kw)
        )
        self._energy = StoredEnergy(self.capacity_kwh)
        self._settle = max(_SHORTEST_SETTLE, interval)
        self._others = OtherMaster()
        self._source = CommandSource.MANUAL
        self._log = _logger.bind(device=self.name)

    @property
    def name(self) -> str:
        return self.driver.device.name

    def take_over(self, other: "ControlledBattery") -> None:
        """Remember what ``other``, the same battery under another driver, was told last."""
        self.last_command, self._source = other.last_command, other._source
        self.other_master, self.writes = other.other_master, other.writes
        self._recent, self._others = other._recent, other._others
        self._energy = other._energy
        self.waits, self._waits_since = other.waits, other._waits_since

    @property
    def timeout(self) -> timedelta | None:
        """After how long without a command it goes to its safe state by itself; None: never."""
        seconds = self.driver.command_timeout_s
        return None if seconds is None else timedelta(seconds=seconds)

    def state(self) -> BatteryState:
        """From the newest polls of the battery and its meter."""
        poll = self._newest.get(self.name)
        if poll is None:
            return BatteryState(None, self._metered_power(), BatteryCapability())
        soe_pct = self.driver.soe_pct(poll)
        blocks = self.driver.available_blocks(poll)
        return BatteryState(
            soe_kwh=None if soe_pct is None else Measurement(soe_pct / 100 * self.capacity_kwh, poll.oldest),
            power=self._metered_power() if self.meter is not None else self._own_power(poll),
            capability=BatteryCapability(
                charge_limit_kw=self.driver.charge_limit_kw(poll),
                discharge_limit_kw=self.driver.discharge_limit_kw(poll),
                available_blocks=blocks,
                blocks_total=self.driver.blocks_total,
            ),
        )

    def _own_power(self, poll: Poll) -> Measurement | None:
        power_kw = self.driver.measured_power_kw(poll)
        return None if power_kw is None else Measurement(power_kw, poll.oldest)

    def _metered_power(self) -> Measurement | None:
        poll = None if self.meter is None else self._newest.get(self.meter.device.name)
        if poll is None or self.meter is None:
            return None
        power_kw = self.meter.measured_power_kw(poll)
        return None if power_kw is None else Measurement(0.0 - power_kw, poll.oldest)

    def commanded_kw(self, now: datetime) -> float:
        """What it does as far as commands tell: 0 before the first and once the last is older than its timeout."""
        holds = self.in_force(now)
        return 0.0 if holds is None else holds.power_kw

    def in_force(self, now: datetime) -> AcknowledgedCommand | None:
        """The command that it acknowledged last, unless it has given up on it since."""
        return None if self.last_command is None or self._timed_out(now) else self.last_command

    @property
    def follows(self) -> bool:
        """False for a battery that nothing measures and whose stored energy says that it does not do as it was told."""
        return not self._energy.failing

    def counted_kw(self, now: datetime) -> float:
        """What a battery that nothing measures counts with: what it was told, and 0 while it does not follow."""
        return self.commanded_kw(now) if self.follows else 0.0

    def command_source(self, now: datetime) -> CommandSource:
        """Why it does what it does: of the decision last acknowledged, for as long as that holds."""
        return CommandSource.MANUAL if self.last_command is None or self._timed_out(now) else self._source

    def _timed_out(self, now: datetime) -> bool:
        assert self.last_command is not None  # noqa: S101 - the callers have looked
        return self.timeout is not None and abs(now - self.last_command.time) > self.timeout

    def needs(self, power_kw: float, now: datetime, inside: Range | None = None) -> bool:
        """Whether ``power_kw`` has to be sent: it is news to the battery, or the heartbeat is due.

        A register that rounds it to what it holds already learns nothing new.
        """
        last = self.last_command
        if last is None or self._failing or self._lost:
            return True
        if not timedelta() <= now - last.time < self._heartbeat:  # due, or unknown since the clock was set back
            return True
        try:
            held_kw = self.driver.rounded(power_kw, inside)
        except FluxError:  # sending it will tell why it is refused
            return True
        return abs(held_kw - last.power_kw) > DEAD_BAND_KW or (held_kw == 0) is not (last.power_kw == 0)

    @property
    def _heartbeat(self) -> timedelta:
        return _HEARTBEAT_WITHOUT_TIMEOUT if self.timeout is None else self.timeout / _HEARTBEATS_PER_TIMEOUT

    def look(self, state: BatteryState, now: datetime) -> None:
        """Compare what the newest polls show with what it was told, and raise or clear its alarms."""
        poll = self._newest.get(self.name)
        last = self.last_command
        self._look_whether_it_rests(poll, state, now)
        if last is None or self.other_master is not None or self._timed_out(now):
            self._energy.forget()
            return
        if state.power is None and state.soe_kwh is not None:
            self._look_at_its_energy(state, state.soe_kwh, now)
        if poll is not None and poll.time - timedelta(seconds=poll.response_time_s) > last.time:
            self._look_for_another_master(poll)
            self._look_for_restart(poll, now)
        if state.power is not None and state.power.time > last.time:
            self._look_whether_it_follows(state, state.power, now)

    def _look_for_another_master(self, poll: Poll) -> None:
        """Only where this edge has given the last command: before that anything may stand there."""
        problems = [self._others.in_register(name, poll.values.get(name)) for name in self.driver.owner_names]
        target = poll.values.get("target_power")
        if "target_power" not in self.driver.owner_names and isinstance(target, int | float):
            problems.append(self._others.in_target(target, self._recent, poll.time))
        found = next((problem for problem in problems if problem is not None), None)
        if found is not None and self.other_master is None:
            self.hold(found)

    def wait_for_rest(self, now: datetime) -> None:
        """Another edge commanded it until now, and may still do so: nothing is sent before it rests."""
        if self.in_force(now) is None and self._waits_since is None:
            self._waits_since = now
            self.waits = f"{self.name} was commanded by another edge, and is looked at first"

    def _look_whether_it_rests(self, poll: Poll | None, state: BatteryState, now: datetime) -> None:
        """One that nobody commands any more rests by its own timeout; one that shows no power can't be waited for."""
        since, key = self._waits_since, f"other_master:{self.name}"
        if since is None or poll is None or poll.time <= since:
            return
        target = poll.values.get("target_power")
        shown_kw = target if isinstance(target, int | float) else None if state.power is None else state.power.value
        if shown_kw is None or abs(shown_kw) <= _SURELY_KW:
            self._waits_since = self.waits = None
            self._tell(key, None)
            return
        self.waits = (
            f"{self.name} is still at {shown_kw:.1f} kW by the command of another edge; it is waited for its rest"
        )
        if self.timeout is not None and now - since > 2 * self.timeout:
            self._tell(key, f"{self.name} is commanded by somebody else: it does not rest, at {shown_kw:.1f} kW")

    def hold(self, found: str) -> None:
        """Somebody else commands it: nothing is sent to it until :meth:`release`."""
        self.other_master = found
        self._tell(
            f"other_master:{self.name}",
            f"{self.name} is commanded by somebody else: {found}; nothing is sent to it until `flux control resume`",
        )

    def release(self) -> None:
        """Command it again; the next command sets it up."""
        self.other_master = None
        self._others.forget()
        self._recent = RecentCommands()
        self.driver.forget()
        self.last_command = None
        self._tell(f"other_master:{self.name}", None)

    def _look_for_restart(self, poll: Poll, now: datetime) -> None:
        """A battery that shows 0 kW although it acknowledged another power has restarted and forgot us.

        It is set up again, but not in each cycle: it may show 0 for reasons of its own.
        """
        key = f"restarted:{self.name}"
        target = poll.values.get("target_power")
        if target is None:
            return
        told = self._recent.since(poll.time - self._settle)  # a device may show what it was told a little later
        if target != 0 or not told or min(abs(power) for power in told) <= _SURELY_KW:
            self._tell(key, None)
            return
        told_kw = told[-1]
        self._tell(key, f"{self.name} shows 0 kW, it acknowledged {told_kw:.1f} kW: it restarted, and is set up again")
        self._set_up_again(now)

    def _look_whether_it_follows(self, state: BatteryState, power: Measurement, now: datetime) -> None:
        key = f"not_following:{self.name}"
        if self._following.look(power, self._recent, lambda power_kw: self._reachable(state, power_kw)):
            told_kw = self.commanded_kw(now)
            self._tell(key, f"{self.name} does not follow: it was told {told_kw:.1f} kW and does {power.value:.1f} kW")
        if self._following.failing:
            self._set_up_again(now)
        else:
            self._tell(key, None)

    def _look_at_its_energy(self, state: BatteryState, soe: Measurement, now: datetime) -> None:
        """Where nothing measures it; one that is empty or full, or may do less, is not expected to do more."""
        key = f"not_following:{self.name}"
        told_kw = self.commanded_kw(now)
        if self._energy.look(soe, self._reachable(state, told_kw)):
            self._tell(
                key,
                f"{self.name} does not follow: it was told {told_kw:.1f} kW, and its stored energy does not move with"
                " it; until it does it counts as at rest",
            )
        if self._energy.failing:
            self._set_up_again(now)
        else:
            self._tell(key, None)

    def _reachable(self, state: BatteryState, power_kw: float) -> float:
        """What it can do of ``power_kw``, by what it reports itself."""
        can = state.capability
        limit_kw = can.discharge_limit_kw if power_kw > 0 else can.charge_limit_kw
        if state.soe_kwh is not None:
            soe_pct = 100 * state.soe_kwh.value / self.capacity_kwh
            if (power_kw > 0 and soe_pct <= _EMPTY_PCT) or (power_kw < 0 and soe_pct >= _FULL_PCT):
                return 0.0
        if can.available_blocks is not None and can.blocks_total and limit_kw is not None:
            limit_kw *= min(1.0, can.available_blocks / can.blocks_total)
        return power_kw if limit_kw is None else max(-limit_kw, min(limit_kw, power_kw))

    def _set_up_again(self, now: datetime) -> None:
        """Let the next command set up everything, at most once in three heartbeats."""
        if self._set_up_again_at is not None and now < self._set_up_again_at:
            return
        self._set_up_again_at = now + 3 * self._heartbeat
        self._lost = True
        self.driver.forget()

    def rests_since(self, instant: datetime) -> bool:
        """Whether it acknowledged 0 kW at ``instant`` or later."""
        return self.last_command is not None and self.last_command.power_kw == 0 and self.last_command.time >= instant

    def holds_a_command(self, now: datetime) -> bool:
        """Whether it acknowledged the last thing that it was told, and has not given up on it since."""
        return not self._failing and self.in_force(now) is not None

    async def send(
        self, power_kw: float, source: CommandSource | None, within_s: float, inside: Range | None = None
    ) -> bool:
        """Command ``power_kw``, rounded within ``inside``, and read it back.

        False, with nothing remembered, when it was not acknowledged within ``within_s``.
        """
        before = self.driver.register_writes
        try:
            command = await self.driver.command(power_kw, inside=inside, within_s=within_s)
        except FluxError as error:  # refused by the driver counts as not acknowledged
            self._failing = True
            self._remember_tries()
            self._tell(f"command:{self.name}", f"{self.name}: {power_kw:.1f} kW was not acknowledged: {error}")
            return False
        finally:
            self.writes.add(self.driver.register_writes - before, self._clock())
        self._failing = self._lost = False
        self._tell(f"command:{self.name}", None)
        assert command.acknowledged_at is not None  # noqa: S101 - None is for dry runs
        self._take(AcknowledgedCommand(command.power_kw, command.acknowledged_at))
        self._source = CommandSource.MANUAL if source is None else source
        for write in command.writes:
            if write.register in self.driver.owner_names:
                self._others.wrote(write.register, write.value, command.acknowledged_at)
        return await self._compare(command, within_s)

    def _remember_tries(self) -> None:
        """An answer may be lost on its way: what the battery holds then is ours all the same."""
        for write in self.driver.tried:
            if write.register in self.driver.owner_names:
                self._others.tried(write.register, write.value)
            if write.step is Step.POWER:
                self._others.tried_power(write.value)

    def _take(self, command: AcknowledgedCommand) -> None:
        if self.last_command is not None and self._timed_out(command.time):
            self._recent = RecentCommands()  # meanwhile it did what it does on its own
        self.last_command = command
        self._recent.add(command)
        self._others.took_power(command.time)

    async def _compare(self, command: Command, within_s: float) -> bool:
        """Read back what was written; an answer that differs is told, and written again with the next cycle."""
        try:
            async with asyncio.timeout(within_s):
                differing = await self.driver.read_back(command)
        except (FluxError, TimeoutError) as error:  # it was acknowledged; whether it can be read is the poller's matter
            self._log.debug("command not read back", error=str(error))
            return True
        found = ", ".join(f"{name} holds {read}, {wrote:g} was written" for name, (wrote, read) in differing.items())
        self._tell(f"read_back:{self.name}", f"{self.name} answers otherwise: {found}" if found else None)
        if found:
            self._lost = True
            self.driver.forget()
            self._believe(command, {name: read for name, (_, read) in differing.items()})
        return not found

    def _believe(self, command: Command, read: Mapping[str, object]) -> None:
        """What the battery says of itself counts, where it is less than what was written: it holds itself back."""
        for name, value in read.items():
            if isinstance(value, int | float) and name in self.driver.owner_names:
                self._others.wrote(name, value, self._clock())
        power = next(read.get(write.register) for write in command.writes if write.step is Step.POWER)
        if isinstance(power, int | float) and min(0.0, command.power_kw) <= power <= max(0.0, command.power_kw):
            self._take(AcknowledgedCommand(float(power), self._clock()))
