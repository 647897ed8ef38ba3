"""One device through its template: polls into typed readings, commands in the order that the device wants.

A poll of the tesla_powerpack template is one read of 117 registers; ``reading`` makes it ``BessReading(soe=50.0, …)``.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import structlog

from flux.devices.client import ConnectionPool
from flux.devices.codec import Block, Value, plan_blocks
from flux.devices.commander import Command, Commander, NotControllableError, Write
from flux.devices.control import Step
from flux.devices.decoder import BlockDecoder
from flux.devices.readings import ReadingMaker
from flux.devices.registers import Register
from flux.devices.rounding import Range
from flux.devices.template import DeviceTemplate
from flux.devices.transport import DeviceFaultError, RegisterTransport
from flux.errors import DeviceError, InputError
from flux.model import BessReading, Device, MeterMetadata, MeterReading

__all__ = ["Command", "DeviceDriver", "NotControllableError", "Poll", "driver_for"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll gave. ``time``: aware UTC, when the last reply was there; ``first_reply_at``: the first.

    ``values`` are in engineering units by register name; ``None``: implausible. A register whose block failed is
    missing. ``problems`` says in words what was implausible and which blocks failed. ``implausible``: numbers outside
    their range, for the record only.
    """

    time: datetime
    values: dict[str, Value | None]
    response_time_s: float
    problems: tuple[str, ...] = ()
    first_reply_at: datetime | None = None
    implausible: Mapping[str, float] = field(default_factory=dict)

    @property
    def oldest(self) -> datetime:
        """No value is older than this: what freshness counts from. A block that fails may hold up a poll for long."""
        return self.time if self.first_reply_at is None else self.first_reply_at


class DeviceDriver:
    """Reads and commands one device. Not to be used by two tasks at once, but for polls beside commands."""

    def __init__(
        self,
        device: Device,
        template: DeviceTemplate,
        transport: RegisterTransport,
        clock: Callable[[], datetime],
        *,
        without_timeout: bool = False,
        command_timeout_s: float | None = None,
    ) -> None:
        """``clock`` gives aware UTC. ``without_timeout`` allows commands to a device that has no command timeout;
        ``command_timeout_s`` is written instead of the template's."""
        if device.type is not template.type:
            raise InputError(f"{device.name} is a {device.type}; template {template.name} is for a {template.type}")
        self.device, self.template = device, template
        self._transport, self._clock = transport, clock
        self._unit = device.metadata.modbus_address
        self._max_gap = template.max_gap_words
        self._plans: dict[frozenset[str] | None, tuple[BlockDecoder, ...]] = {}
        self._readings = ReadingMaker(device, template)
        self._commander = Commander(
            device, template, transport, clock, without_timeout=without_timeout, timeout_s=command_timeout_s
        )
        self._log = _log.bind(device=device.name)

    async def poll(self, names: Collection[str] | None = None) -> Poll:
        """Read the registers called ``names``, or all that can be read.

        Blocks that fail are told in the poll's problems; :class:`DeviceError` when all of them do.
        """
        now = asyncio.get_running_loop().time
        started = now()
        values: dict[str, Value | None] = {}
        problems: list[str] = []
        implausible: dict[str, float] = {}
        failures: list[DeviceError] = []
        first_reply_at: datetime | None = None
        refused = False
        queue = list(reversed(self._plan(names)))
        while queue:
            decoder = queue.pop()
            block = decoder.block
            try:
                words = await self._transport.read(
                    self._unit, block.address, block.count, function=self.template.function
                )
                decoder.decode_into(words, values, problems, implausible)
                first_reply_at = first_reply_at or self._clock()
            except DeviceError as error:
                if block.bridged and isinstance(error, DeviceFaultError) and error.refuses_address:
                    refused = True
                    queue.extend(reversed(self._listed_only(block)))
                else:
                    failures.append(error)
                    problems.append(f"registers {block.address} to {block.address + block.count - 1}: {error}")
        if failures and first_reply_at is None:
            raise DeviceError(f"{self.device.name}: {failures[0]}") from failures[0]
        if refused:
            self._read_listed_only()
        return Poll(self._clock(), values, now() - started, tuple(problems), first_reply_at, implausible)

    def _plan(self, names: Collection[str] | None) -> tuple[BlockDecoder, ...]:
        key = None if names is None else frozenset(names)
        plan = self._plans.get(key)
        if plan is None:
            registers = self.template.readable if key is None else [self._readable(name) for name in sorted(key)]
            blocks = plan_blocks(registers, self.template.max_block_words, self._max_gap)
            plan = self._plans[key] = tuple(self._decoder(block) for block in blocks)
        return plan

    def _readable(self, name: str) -> Register:
        register = self.template.register(name)
        if not register.readable:
            raise InputError(
                f"{self.device.name}: register {name} of template {self.template.name} can only be written"
            )
        return register

    def _decoder(self, block: Block) -> BlockDecoder:
        metadata = self.device.metadata
        if isinstance(metadata, MeterMetadata):
            return BlockDecoder(block, vt_ratio=metadata.vt_ratio, ct_ratio=metadata.ct_ratio)
        return BlockDecoder(block)

    def _listed_only(self, block: Block) -> list[BlockDecoder]:
        return [self._decoder(part) for part in plan_blocks(block.registers, self.template.max_block_words, 0)]

    def _read_listed_only(self) -> None:
        """The device does not let one read run over addresses that it does not have: never ask that again."""
        self._max_gap = 0
        self._plans.clear()
        reads = len(self._plan(None))
        self._log.info("device refuses reads over unlisted registers; listed ones are read alone", reads=reads)

    def reading(self, poll: Poll, *, command_source: int | None = None) -> MeterReading | BessReading:
        """What is recorded of a poll. ``command_source``: Flux's code of the decision last acknowledged."""
        return self._readings.reading(poll.time, poll.values, command_source, poll.implausible)

    @property
    def control_names(self) -> frozenset[str]:
        """The registers that the controller needs, for :meth:`poll`: fewer words than all of them."""
        return self._readings.control_names | self.owner_names

    def soe_pct(self, poll: Poll) -> float | None:
        """State of energy in % of the capacity."""
        return self._readings.soe_pct(poll.values)

    def measured_power_kw(self, poll: Poll) -> float | None:
        """A battery: what it delivers, + discharge, if it measures that. A meter: + flowing into what it meters."""
        return self._readings.measured_power_kw(poll.values)

    def charge_limit_kw(self, poll: Poll) -> float | None:
        """The most it takes, ≥ 0: what it reports, else the metadata's ``max_power_kw``."""
        return self._readings.limit_kw(poll.values, "max_charge_power")

    def discharge_limit_kw(self, poll: Poll) -> float | None:
        """The most it gives, ≥ 0: what it reports, else the metadata's ``max_power_kw``."""
        return self._readings.limit_kw(poll.values, "max_discharge_power")

    def available_blocks(self, poll: Poll) -> int | None:
        """Inverter blocks that are ready."""
        return self._readings.available_blocks(poll.values)

    @property
    def blocks_total(self) -> int | None:
        """Inverter blocks when all are ready: the metadata's ``blocks_total``, else the template's."""
        return self._readings.blocks_total

    def diagnostics(self, poll: Poll) -> dict[str, Value | None]:
        """What was read and is not recorded: status, versions, the device's own command source."""
        return self._readings.diagnostics(poll.values)

    @property
    def command_timeout_s(self) -> float | None:
        """After how long without a command the device goes to its safe state; None: never."""
        return self._commander.timeout_s

    @property
    def power_step_kw(self) -> float:
        """The distance of the powers that its set-point can hold, kW; 0: any."""
        return self._commander.power_step_kw

    def rounded(self, power_kw: float, inside: Range | None = None) -> float:
        """What its set-point would hold of a power, as :meth:`command` would write it."""
        return self._commander.rounded(power_kw, inside)

    async def command(self, power_kw: float, *, inside: Range | None = None, within_s: float | None = None) -> Command:
        """Tell the battery its power, kW, + discharge; returns what it acknowledged, after rounding to its register.

        The register rounds to the nearest power that it can hold within ``inside`` (lowest, highest).

        The first command, and the first after a failure, after a silence longer than the command timeout, or after
        :meth:`forget`, sets up everything. Raises :class:`NotControllableError`, :class:`RefusedError` for a power that
        is not finite or not in the register's range, :class:`DeviceError` when a write was not acknowledged, or not
        all of them ``within_s``: a limit that keeps retries from carrying out a decision that has become old.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._commander.command(power_kw, inside)
        except TimeoutError:
            raise DeviceError(f"{self.device.name}: command not acknowledged within {within_s} s") from None

    async def read_back(self, command: Command) -> dict[str, tuple[float, Value | None]]:
        """The registers that do not hold what ``command`` wrote: what was written and what is read, by name.

        Only those that can be read are looked at; empty: all as written, or none can be read. DeviceError.
        """
        written = {one.register: one.value for one in command.writes if one.register in self.read_back_names}
        if not written:
            return {}
        values = (await self.poll(written)).values
        return {name: (value, values[name]) for name, value in written.items() if values.get(name, value) != value}

    @cached_property
    def read_back_names(self) -> frozenset[str]:
        """The registers that commands write and that can be read as well."""
        names = self.template.control.registers.values() if self.template.control else ()
        return frozenset(name for name in names if self.template.register(name).readable)

    @cached_property
    def owner_names(self) -> frozenset[str]:
        """Of those, set-point and heartbeat: one that holds what was not written tells of another master."""
        steps = self.template.control.registers if self.template.control else {}
        return frozenset(name for step, name in steps.items() if step in (Step.POWER, Step.HEARTBEAT)) & (
            self.read_back_names
        )

    @property
    def register_writes(self) -> int:
        """How many registers this driver has written, those of commands that failed half-way included."""
        return self._commander.register_writes

    @property
    def tried(self) -> Sequence[Write]:
        """What the newest command has sent; where it failed, the device may have taken any of it."""
        return self._commander.tried

    def dry_run(self, power_kw: float) -> Command:
        """What :meth:`command` would write now, checked the same way; nothing is sent."""
        return self._commander.plan(power_kw)

    def forget(self) -> None:
        """Make the next command a first command again."""
        self._commander.forget()


def driver_for(
    device: Device,
    template: DeviceTemplate,
    pool: ConnectionPool,
    clock: Callable[[], datetime],
    *,
    without_timeout: bool = False,
) -> DeviceDriver:
    """The driver of a device over TCP, at the host and port of its metadata, patient as its template says."""
    metadata, config = device.metadata, template.default_config
    if metadata.host is None:
        raise InputError(f"{device.name}: its metadata has no host; add `host` and `port`")
    link = pool.get(metadata.host, metadata.port, timeout_s=config.timeout.total_seconds(), retries=config.retry_count)
    return DeviceDriver(device, template, link, clock, without_timeout=without_timeout)
