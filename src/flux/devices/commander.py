"""Commands to one battery: what is written, in which order, and whether it was acknowledged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from flux.devices.codec import decode, encode
from flux.devices.control import ControlSection, Heartbeat, Step
from flux.devices.rounding import Range, held_value, step_of
from flux.devices.template import DeviceTemplate
from flux.devices.transport import RegisterTransport
from flux.errors import DeviceError, InputError, RefusedError
from flux.model import Device

_log = structlog.get_logger(__name__)

_SET_UP_WITHIN_S = 60.0
"""A set-up that takes longer than the command timeout, or than this without one, begins anew."""


class NotControllableError(RefusedError):
    """The device has no set-point, or nothing that stops it when nobody commands it any more."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a command; ``value`` is in engineering units, as the register holds it."""

    step: Step
    register: str
    address: int
    words: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what came of it.

    ``power_kw``, + discharge, is ``requested_kw`` as rounded to the register. ``acknowledged_at`` is aware UTC; None
    in a dry run.
    """

    requested_kw: float
    power_kw: float
    first: bool
    writes: tuple[Write, ...]
    acknowledged_at: datetime | None = None


class Commander:
    """Commands one device. It remembers whether the device has been set up and which heartbeat comes next."""

    def __init__(
        self,
        device: Device,
        template: DeviceTemplate,
        transport: RegisterTransport,
        clock: Callable[[], datetime],
        *,
        without_timeout: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._device, self._template = device, template
        self._transport, self._clock = transport, clock
        self._without_timeout = without_timeout
        self._constants = template.control.constants() if template.control else {}
        if timeout_s is not None and Step.TIMEOUT in self._constants:
            self._constants[Step.TIMEOUT] = timeout_s
        self._last_acknowledged: datetime | None = None
        self._set_up: dict[Step, datetime] = {}
        self._beats = 0
        self.register_writes = 0
        self.tried: list[Write] = []
        """Of the newest command, in order; where it failed the device may hold any of these."""
        self._log = _log.bind(device=device.name)

    @property
    def timeout_s(self) -> float | None:
        """After how long the device gives up on us; None: never."""
        return self._constants.get(Step.TIMEOUT)

    def forget(self) -> None:
        """Make the next command a first one, from its beginning."""
        self._last_acknowledged = None
        self._set_up.clear()

    def plan(self, power_kw: float, inside: Range | None = None) -> Command:
        """The writes of a command now, all checks done; the register rounds the power, but not out of ``inside``."""
        control = self._control()
        if not math.isfinite(power_kw):
            raise RefusedError(f"{self._device.name}: a power of {power_kw} kW is not a number to command")
        first = self._needs_setup()
        held_kw = self.rounded(power_kw, inside)
        steps = self._steps_of_set_up(control) if first else control.later
        writes = tuple(self._write(control, step, held_kw) for step in steps)
        power = next(write.value for write in writes if write.step is Step.POWER)
        return Command(power_kw, power, first, writes)

    @property
    def power_step_kw(self) -> float:
        """The distance of the powers that the set-point can hold; 0: any."""
        return step_of(self._template.register(self._control().power.register_name))

    def rounded(self, power_kw: float, inside: Range | None = None) -> float:
        """What the set-point would hold of a power; RefusedError for one that it cannot hold."""
        register = self._template.register(self._control().power.register_name)
        try:
            return held_value(register, power_kw, inside)
        except InputError as error:
            raise RefusedError(f"{self._device.name}: {error}") from None

    async def command(self, power_kw: float, inside: Range | None = None) -> Command:
        """Write it all; the device counts as set up only once every write was acknowledged.

        Where whoever asked gives up on a set-up half-way, the next command goes on with what is missing: a slow device
        may take longer for all of it than a decision is worth. After an error it begins anew.
        """
        command = self.plan(power_kw, inside)
        self._last_acknowledged = None  # until it is through
        self.tried = []
        try:
            for write in command.writes:
                self.tried.append(write)
                await self._send(write)
                if command.first and write.step in self._constants:
                    self._set_up[write.step] = self._clock()
        except DeviceError:
            self.forget()
            raise
        self._set_up.clear()
        now = self._clock()
        self._last_acknowledged = now
        if command.first:
            self._log.info("device set up for commands", power_kw=command.power_kw, timeout_s=self.timeout_s)
        return Command(power_kw, command.power_kw, command.first, command.writes, now)

    def _control(self) -> ControlSection:
        control, name = self._template.control, self._device.name
        if control is None:
            raise NotControllableError(
                f"{name}: template {self._template.name} has no set-point; it cannot be commanded"
            )
        if control.timeout is None and not self._without_timeout:
            raise NotControllableError(
                f"{name}: template {self._template.name} has no command timeout, so the battery would go on for ever "
                "when nobody commands it; say `without_timeout: accepted` in the plan to control it all the same"
            )
        return control

    def _steps_of_set_up(self, control: ControlSection) -> tuple[Step, ...]:
        """Those of a first command that are still to be done; power and heartbeat always are.

        What was written longer ago than the command timeout may be lost.
        """
        longest = timedelta(seconds=_SET_UP_WITHIN_S if self.timeout_s is None else self.timeout_s)
        now = self._clock()
        if any(not timedelta() <= now - at < longest for at in self._set_up.values()):
            self._set_up.clear()
        return tuple(step for step in control.first if step not in self._set_up)

    def _needs_setup(self) -> bool:
        """After a silence longer than its timeout the device has fallen back to what it does on its own."""
        if self._last_acknowledged is None:
            return True
        silence = self._clock() - self._last_acknowledged
        if self.timeout_s is None:
            return False
        return not timedelta() <= silence < timedelta(seconds=self.timeout_s)  # below 0: the clock was set back

    def _write(self, control: ControlSection, step: Step, power_kw: float) -> Write:
        register = self._template.register(control.registers[step])
        if not register.writable:
            raise RefusedError(f"{self._device.name}: register {register.name} is not listed as writable")
        value = self._value(control.heartbeat, step, power_kw)
        try:
            words = encode(register, value)
        except InputError as error:
            raise RefusedError(f"{self._device.name}: {error}") from None
        written = decode(register, words)
        if not isinstance(written, int | float) or not register.plausible(written):
            raise RefusedError(f"{self._device.name}: {value!r} is outside min and max of register {register.name}")
        return Write(step, register.name, register.address, tuple(words), written)

    def _value(self, heartbeat: Heartbeat | None, step: Step, power_kw: float) -> float:
        if step is Step.POWER:
            return power_kw
        if step is Step.HEARTBEAT and heartbeat is not None:
            return heartbeat.values[self._beats % 2]
        return self._constants[step]

    async def _send(self, write: Write) -> None:
        try:
            await self._transport.write(self._device.metadata.modbus_address, write.address, write.words)
        except DeviceError as error:
            raise DeviceError(f"{self._device.name}: writing {write.register}: {error}") from error
        self.register_writes += 1
        if write.step is Step.HEARTBEAT:
            self._beats += 1  # the device has seen this one, whatever becomes of the rest
