"""The simulated site live: Modbus TCP servers, physics that follow a clock, state that outlives the process.

::

    async with SimulatorServer(SimulatedSite(demo_site(), clock()), clock, state=StateFile(path)) as server:
        await server.wait()

Each tick moves the physics to the clock's time, puts the state on disk and only then lets the registers show it. A
killed simulator that starts again has therefore never shown a counter that it has forgotten.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from flux.devices.simulator.clock import Clock
from flux.devices.simulator.device import SimulatedDevice
from flux.devices.simulator.endpoint import Endpoint
from flux.devices.simulator.faults import EVERY_DEVICE, Fault, FaultBoard, FaultKind, parse_fault
from flux.devices.simulator.physics import Battery, Meter
from flux.devices.simulator.replylog import Reply, ReplySink
from flux.devices.simulator.statefile import StateFile
from flux.devices.simulator.world import SimulatedSite
from flux.errors import InputError, NotFoundError

_log = structlog.get_logger(__name__)
_TICK_S = 0.5
_SHORTEST_TICK_S = 0.02


class SimulatorServer:
    """Serves a :class:`SimulatedSite` until it is stopped; used with ``async with``."""

    def __init__(
        self,
        site: SimulatedSite,
        clock: Clock,
        *,
        speed: float = 1.0,
        state: StateFile | None = None,
        faults: FaultBoard | None = None,
        faults_file: Path | None = None,
        on_reply: ReplySink | None = None,
    ) -> None:
        """``speed`` is that of the clock: the registers follow it more often, and delays are shorter on the wall."""
        self.site = site
        self.faults = FaultBoard() if faults is None else faults
        self._clock = clock
        self._state = state
        self._faults_file = _FaultsFile(faults_file) if faults_file is not None else None
        self._tick_s = min(max(_TICK_S / max(speed, 1e-9), _SHORTEST_TICK_S), _TICK_S)
        self._endpoints = [
            Endpoint(devices, clock, self.faults, _no_record if on_reply is None else on_reply, speed)
            for devices in _by_place(site.devices)
        ]
        self._task: asyncio.Task[None] | None = None
        self._saving = True

    @property
    def devices(self) -> tuple[SimulatedDevice, ...]:
        """The devices; once started, ``port`` is where each really listens."""
        return self.site.devices

    async def start(self) -> None:
        """Bind every port, take up the last state, answer. When one of these fails nothing is left behind."""
        self.site.publish_on_demand = False
        try:
            for endpoint in self._endpoints:
                await endpoint.bind()
            self._take_up_state()
            self.tick()
            for endpoint in self._endpoints:
                await endpoint.serve()
        except BaseException:
            self._release()
            raise
        self._task = asyncio.create_task(self._run(), name="simulator")
        _log.info("simulator.started", site=self.site.config.site, devices=len(self.devices))

    async def stop(self) -> None:
        """Stop answering, keep the state; raises what ended the simulator early, if anything did."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        try:
            self.site.step(self._clock())
            self._save()
        finally:
            self._release()
        _log.info("simulator.stopped", site=self.site.config.site)
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome

    async def wait(self) -> None:
        """Until it is stopped; raises what ended it early."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def tick(self) -> None:
        """Move the physics to now, make that safe, then show it; done by itself while it runs."""
        now = self._clock()
        self._refresh_faults()
        self._apply_faults(now)
        self.site.step(now)
        if self._save():
            self.site.publish()

    async def advance(self) -> None:
        """A tick, and devices that were restarting listen again; for who moves the clock by hand."""
        self.tick()
        await self._reopen(self._clock())

    def add_fault(self, fault: Fault | str) -> None:
        """Let a device misbehave from the next tick on (requests: from now on)."""
        parsed = parse_fault(fault) if isinstance(fault, str) else fault
        check_device(parsed, self.site)
        self.faults.add(parsed, self._clock())

    def clear_faults(self, device: str | None = None) -> None:
        """End every fault, or those of one device."""
        self.faults.clear(device)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            await self.advance()

    def _take_up_state(self) -> None:
        if self._state is None:
            return
        self._state.hold()
        state = self._state.load()
        if state is not None:
            try:
                self.site.restore(state, self._clock())
            except InputError as error:
                raise InputError(f"state file {self._state.path}: {error}; move it away to start anew") from None

    def _save(self) -> bool:
        """Whether what the registers are about to show is safe."""
        if self._state is None:
            return True
        try:
            self._state.save(self.site.state())
        except OSError as error:
            if self._saving:
                _log.error("simulator.state_not_saved", path=str(self._state.path), reason=str(error), registers="held")
            self._saving = False
            return False
        if not self._saving:
            _log.info("simulator.state_saved_again", path=str(self._state.path))
        self._saving = True
        return True

    def _release(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()
        if self._state is not None:
            self._state.release()

    def _refresh_faults(self) -> None:
        if self._faults_file is not None:
            fresh = self._faults_file.read_if_changed(self.site)
            if fresh is not None:
                self.faults.replace("file", fresh, self._clock())
                _log.info("simulator.faults_changed", faults=len(fresh))

    def _apply_faults(self, now: datetime) -> None:
        """Those that change the devices themselves; the others are asked for at each request."""
        self.faults.forget_ended(now)
        for fault in self.faults.take_due_once(now):
            for device in self.devices:
                if fault.concerns(device.name):
                    self._happen(fault, device, now)
        for device in self.devices:
            lag = self.faults.holding(device.name, (FaultKind.LAG,), now)
            self.site.set_lag(device.name, lag.duration if lag else timedelta())
            noise = self.faults.holding(device.name, (FaultKind.NOISE,), now)
            self.site.set_noise(device.name, noise.power_kw if noise else 0.0)
            if isinstance(device.thing, Battery):
                tripped = self.faults.holding(device.name, (FaultKind.TRIPPED,), now) is not None
                self.site.set_tripped(device.name, tripped)
                blocks = self.faults.holding(device.name, (FaultKind.BLOCKS,), now)
                whole = device.thing.spec.blocks
                self.site.set_available_blocks(device.name, min(blocks.number, whole) if blocks else whole)

    def _happen(self, fault: Fault, device: SimulatedDevice, now: datetime) -> None:
        _log.info("simulator.fault", device=device.name, kind=str(fault.kind))
        if fault.kind is FaultKind.RESET:
            if isinstance(device.thing, Meter):
                self.site.reset_counters(device.name)
            return
        self.site.restart_device(device.name)
        for endpoint in self._endpoints:
            if device in endpoint.units.values():
                endpoint.close()
                endpoint.down_until = now + fault.duration

    async def _reopen(self, now: datetime) -> None:
        """Let devices that were restarting listen again."""
        for endpoint in self._endpoints:
            if endpoint.down_until is None or now < endpoint.down_until:
                continue
            try:
                await endpoint.bind()
                await endpoint.serve()
            except InputError as error:
                _log.warning("simulator.port_taken", reason=str(error))  # tried again at the next tick
                continue
            endpoint.down_until = None


def check_device(fault: Fault, site: SimulatedSite) -> None:
    """Raise :class:`NotFoundError` for a device that the site doesn't have."""
    if fault.device != EVERY_DEVICE:
        site.device(fault.device)


class _FaultsFile:
    """A JSON list of faults as text; the whole of it is what holds. Read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read_if_changed(self, site: SimulatedSite) -> list[Fault] | None:
        """The faults, when the file is another than last time; a file that is wrong is reported and passed over."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            was_there, self._seen = self._seen is not None, None
            return [] if was_there else None
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            faults = self._parsed()
            for fault in faults:
                check_device(fault, site)
        except (InputError, NotFoundError, ValueError, OSError) as error:
            _log.warning("simulator.faults_file_wrong", path=str(self._path), reason=str(error))
            return None
        return faults

    def _parsed(self) -> list[Fault]:
        texts = json.loads(self._path.read_text(encoding="utf-8"))
        if not isinstance(texts, list):
            raise InputError('expected a list of texts, like ["WLCE-GRID-METER:drop"]')
        return [parse_fault(str(text)) for text in texts]


def _by_place(devices: Sequence[SimulatedDevice]) -> list[list[SimulatedDevice]]:
    """Devices with one host and port share it; each without a port gets one of its own."""
    own = [[device] for device in devices if device.port == 0]
    placed = sorted((device for device in devices if device.port), key=lambda one: (one.host, one.port))
    return own + [list(group) for _, group in groupby(placed, key=lambda one: (one.host, one.port))]


def _no_record(_reply: Reply) -> None:
    """Nobody keeps the replies."""
