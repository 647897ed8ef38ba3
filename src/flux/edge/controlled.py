"""One battery under control: what it measures, what it may do, what it was last told and acknowledged."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from flux.control.state import AcknowledgedCommand, BatteryCapability, Measurement
from flux.devices.driver import Command, Poll
from flux.edge.newest import NewestPolls
from flux.model import BessMetadata, CommandSource, Device, FluxError

_logger = structlog.get_logger(__name__)

DEAD_BAND_KW = 0.01
"""A target that differs by less from the power last acknowledged is not sent; 0 kW always is."""
_HEARTBEATS_PER_TIMEOUT = 3
_HEARTBEAT_WITHOUT_TIMEOUT = timedelta(seconds=60)


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

    async def command(self, power_kw: float, *, within_s: float | None = None) -> Command: ...

    def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BatteryState:
    """What one battery said last. ``power`` is measured (+ discharge), None where nothing measures it."""

    soe_kwh: Measurement | None
    power: Measurement | None
    capability: BatteryCapability


class ControlledBattery:
    """A battery with its meter, if it has one."""

    def __init__(self, driver: CommandedDevice, meter: MeteredDevice | None, newest: NewestPolls, capacity_kwh: float):
        """``capacity_kwh`` is the plan's, for a device whose metadata names none."""
        self.driver = driver
        self.meter = meter
        self._newest = newest
        own_kwh = driver.device.metadata.capacity_kwh if isinstance(driver.device.metadata, BessMetadata) else None
        self._capacity_kwh = capacity_kwh if own_kwh is None else own_kwh
        self._failing = False
        self._set_up_again_at: datetime | None = None
        self.last_command: AcknowledgedCommand | None = None
        self._source = CommandSource.MANUAL
        self._log = _logger.bind(device=self.name)

    @property
    def name(self) -> str:
        return self.driver.device.name

    def take_over(self, other: "ControlledBattery") -> None:
        """Remember what ``other``, the same battery under another driver, was told last."""
        self.last_command, self._source = other.last_command, other._source

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
            soe_kwh=None if soe_pct is None else Measurement(soe_pct / 100 * self._capacity_kwh, poll.oldest),
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
        return 0.0 if self.last_command is None or self._timed_out(now) else self.last_command.power_kw

    def command_source(self, now: datetime) -> CommandSource:
        """Why it does what it does: of the decision last acknowledged, for as long as that holds."""
        return CommandSource.MANUAL if self.last_command is None or self._timed_out(now) else self._source

    def _timed_out(self, now: datetime) -> bool:
        assert self.last_command is not None  # noqa: S101 - the callers have looked
        return self.timeout is not None and abs(now - self.last_command.time) > self.timeout

    def needs(self, power_kw: float, now: datetime) -> bool:
        """Whether ``power_kw`` has to be sent: it is news to the battery, or the heartbeat is due."""
        last = self.last_command
        if last is None or self._failing:
            return True
        if not timedelta() <= now - last.time < self._heartbeat:  # due, or unknown since the clock was set back
            return True
        if self._fell_back(now):
            return True
        return abs(power_kw - last.power_kw) > DEAD_BAND_KW or (power_kw == 0) is not (last.power_kw == 0)

    @property
    def _heartbeat(self) -> timedelta:
        return _HEARTBEAT_WITHOUT_TIMEOUT if self.timeout is None else self.timeout / _HEARTBEATS_PER_TIMEOUT

    def _fell_back(self, now: datetime) -> bool:
        """Whether the battery shows 0 kW although it acknowledged another power: it restarted and forgot us.

        Then it is set up again, but not in each cycle: it may show 0 for reasons of its own.
        """
        last, poll = self.last_command, self._newest.get(self.name)
        if last is None or poll is None or poll.oldest <= last.time or abs(last.power_kw) <= 1:
            return False
        if poll.values.get("target_power") != 0 or (self._set_up_again_at is not None and now < self._set_up_again_at):
            return False
        self._set_up_again_at = now + 3 * self._heartbeat
        self._log.warning("battery shows 0 kW, it is set up again", acknowledged_kw=last.power_kw)
        self.driver.forget()
        return True

    def rests_since(self, instant: datetime) -> bool:
        """Whether it acknowledged 0 kW at ``instant`` or later."""
        return self.last_command is not None and self.last_command.power_kw == 0 and self.last_command.time >= instant

    async def send(self, power_kw: float, source: CommandSource | None, within_s: float) -> bool:
        """Command ``power_kw``; False, with nothing remembered, when it was not acknowledged within ``within_s``."""
        try:
            command = await self.driver.command(power_kw, within_s=within_s)
        except FluxError as error:  # refused by the driver counts as not acknowledged
            if not self._failing:
                self._log.warning("command not acknowledged", power_kw=power_kw, error=str(error))
            self._failing = True
            return False
        if self._failing:
            self._log.info("commands are acknowledged again", power_kw=power_kw)
        self._failing = False
        assert command.acknowledged_at is not None  # noqa: S101 - None is for dry runs
        self.last_command = AcknowledgedCommand(command.power_kw, command.acknowledged_at)
        self._source = CommandSource.MANUAL if source is None else source
        return True


def shares(batteries: list[BatteryState], power_kw: float) -> list[float]:
    """How ``power_kw`` is shared among batteries: by what each can give or take; one that is full or empty has none."""
    if len(batteries) == 1:
        return [power_kw]
    weights = [_room(state, power_kw) for state in batteries]
    total = sum(weights)
    wanted = [weight / total if total > 0 else 1 / len(batteries) for weight in weights]
    return [_carried(state, power_kw * share) for state, share in zip(batteries, wanted, strict=True)]


def _room(state: BatteryState, power_kw: float) -> float:
    limit_kw = _limit_kw(state, power_kw)
    return 1.0 if limit_kw is None else limit_kw


def _carried(state: BatteryState, share_kw: float) -> float:
    """The share, no more than this battery can carry: what the site's batteries can together need not fit each."""
    limit_kw = _limit_kw(state, share_kw)
    return share_kw if limit_kw is None else min(max(share_kw, -limit_kw), limit_kw) + 0.0


def _limit_kw(state: BatteryState, power_kw: float) -> float | None:
    """The most that it reports it can do in that direction with the blocks that it has, ≥ 0; None: it does not say."""
    capability = state.capability
    limit_kw = capability.discharge_limit_kw if power_kw > 0 else capability.charge_limit_kw
    if limit_kw is None or not math.isfinite(limit_kw):
        return None
    if capability.available_blocks is not None and capability.blocks_total:
        limit_kw *= min(1.0, capability.available_blocks / capability.blocks_total)
    return max(0.0, limit_kw)


async def send_all(
    batteries: list[ControlledBattery],
    powers_kw: list[float],
    source: CommandSource | None,
    within_s: float,
    needed: Callable[[ControlledBattery, float], bool],
) -> bool:
    """Send each battery its share where that is ``needed``; True when every battery that was told acknowledged."""
    sends = [
        battery.send(power_kw, source, within_s)
        for battery, power_kw in zip(batteries, powers_kw, strict=True)
        if needed(battery, power_kw)
    ]
    if len(sends) == 1:  # the usual case, without a task of its own
        return await sends[0]
    return all(await asyncio.gather(*sends))
