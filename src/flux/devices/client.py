"""Modbus TCP: one connection per host and port, shared by its units, one request at a time on it.

A :class:`ModbusLink` is a connection with one device's time limit and number of retries; a driver is given one. The
connection is made when it is first needed, and again after it was lost, for as long as anybody asks.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog
from pymodbus.pdu import ModbusPDU

from flux.devices.patience import Counters, UnitState
from flux.devices.registers import Function
from flux.devices.transport import (
    BadReplyError,
    DeviceFaultError,
    DeviceTimeoutError,
    DeviceUnreachableError,
    says_unit_is_silent,
)
from flux.devices.wire import Wire, check_echo, read_request, registers_in, write_request
from flux.errors import DeviceError

_log = structlog.get_logger(__name__)

DEFAULT_TIMEOUT_S = 5.0
DEFAULT_RETRIES = 3

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 2.0
_FIRST_RECONNECT_S, _LAST_RECONNECT_S = 0.25, 5.0
_SLICE_S = 0.25  # how soon a wait that others want to see ended is ended
_SILENT_TRIES = 2  # tries without a frame from anybody, after which the connection is made anew
_MAX_TRANSACTION = 0xFFFF
_ABANDONED = 32  # requests given up whose reply may come yet
_CLOCK_GRAIN_S = 0.001  # a timer may come this much early

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ConnectionCounters:
    """Sums over the units of a connection, and what happened to the connection itself."""

    requests: int
    retries: int
    timeouts: int
    faults: int
    errors: int
    refused: int
    connects: int
    failed_connects: int
    late_replies: int

    @property
    def reconnects(self) -> int:
        return max(0, self.connects - 1)


class ModbusConnection:
    """The TCP connection to one host and port."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._units: dict[int, UnitState] = {}
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._wire: Wire | None = None
        self._transaction = 0
        self._silent_tries = 0
        self._failed_in_a_row = 0
        self._connect_at = 0.0
        self._connects = self._failed_connects = self._late_replies = 0
        self._closed = False
        self._abandoned: dict[int, tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle
        self._log = _log.bind(host=host, port=port)

    @property
    def connected(self) -> bool:
        return self._wire is not None and self._wire.open

    def unit(self, unit: int) -> UnitState:
        """What is known of one unit."""
        state = self._units.get(unit)
        if state is None:
            state = self._units[unit] = UnitState()
        return state

    def counters(self) -> ConnectionCounters:
        names = Counters.__dataclass_fields__
        sums = {name: sum(getattr(state.counters, name) for state in self._units.values()) for name in names}
        return ConnectionCounters(
            **sums,
            connects=self._connects,
            failed_connects=self._failed_connects,
            late_replies=self._late_replies,
        )

    async def read(
        self,
        unit: int,
        address: int,
        count: int,
        *,
        function: Function = Function.HOLDING,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
    ) -> Sequence[int]:
        """``count`` registers from ``address`` on; ``timeout_s`` is for each try."""
        request = read_request(unit, address, count, function)
        return await self._retrying(request, registers_in, timeout_s, retries)

    async def write(
        self,
        unit: int,
        address: int,
        words: Sequence[int],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        """Write, and return when the device has acknowledged just that."""
        request = write_request(unit, address, words)
        await self._retrying(request, check_echo, timeout_s, retries)

    async def aclose(self) -> None:
        """Close for good; a request under way fails."""
        self._closed = True
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.close()
            await wire.closed

    async def _retrying(
        self, request: ModbusPDU, answer_of: Callable[[ModbusPDU, ModbusPDU], _T], timeout_s: float, retries: int
    ) -> _T:
        """Try, and try again after a pause in which the connection is free for others."""
        state = self.unit(request.dev_id)
        left = 0 if state.dead else retries
        pause_s = _FIRST_RETRY_S
        while True:
            try:
                return await self._once(request, answer_of, timeout_s, state)
            except DeviceError as error:
                now = asyncio.get_running_loop().time()
                reconnect_s = self._connect_at - now
                hopeless = self._closed or state.blocked_s(now) or reconnect_s > timeout_s or not _may_pass(error)
                if hopeless or left == 0:
                    self._give_up(request.dev_id, state, error)
                    raise
            await asyncio.sleep(max(pause_s, reconnect_s))
            left, pause_s = left - 1, min(_LAST_RETRY_S, 2 * pause_s)
            state.counters.retries += 1

    async def _once(
        self,
        request: ModbusPDU,
        answer_of: Callable[[ModbusPDU, ModbusPDU], _T],
        timeout_s: float,
        state: UnitState,
    ) -> _T:
        """One try, when it is its turn."""
        self._waiting += 1
        state.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
            state.waiting -= 1
        try:
            self._refuse_if_dead(request.dev_id, state)
            wire = await self._connected(timeout_s, state)
            reply = await self._exchange(wire, request, timeout_s, state)
            try:
                return answer_of(reply, request)
            except BadReplyError:
                state.counters.errors += 1
                self._drop(wire, "a reply did not fit its request")
                raise
        finally:
            self._lock.release()

    async def _exchange(self, wire: Wire, request: ModbusPDU, timeout_s: float, state: UnitState) -> ModbusPDU:
        """Send and wait for the reply, with the books kept on how it went."""
        loop = asyncio.get_running_loop()
        self._transaction = request.transaction_id = self._transaction % _MAX_TRANSACTION + 1
        state.counters.requests += 1
        started, frames = loop.time(), wire.frames
        reply = wire.send(request)
        self._timer = loop.call_later(state.patience_s(timeout_s), self._look, reply, request, started, timeout_s)
        try:
            answer = await reply
            self._check_age(request, loop.time() - started, timeout_s)
        except DeviceTimeoutError:
            state.counters.timeouts += 1
            self._abandon(request, started)
            self._was_silent(wire, state, loop.time() - started, frames)
            raise
        except DeviceFaultError as error:
            state.counters.faults += 1
            self._answered(request.dev_id, state, loop.time() - started, silent=error.unit_is_silent)
            raise
        except DeviceError:
            state.counters.errors += 1
            raise
        except asyncio.CancelledError:
            self._abandon(request, started)
            if loop.time() - started >= state.usual_s:  # whoever asked was less patient than we are
                self._was_silent(wire, state, loop.time() - started, frames)
            raise
        finally:
            self._timer.cancel()
            wire.done()
        self._answered(request.dev_id, state, loop.time() - started)
        return answer

    def _look(self, reply: "asyncio.Future[ModbusPDU]", request: ModbusPDU, started: float, timeout_s: float) -> None:
        """End the wait for a reply when its time is up, or when other units want the connection."""
        if reply.done():
            return
        loop = asyncio.get_running_loop()
        waited_s = loop.time() - started
        left_s = timeout_s - waited_s
        others_wait = self._waiting > self.unit(request.dev_id).waiting
        if left_s <= _CLOCK_GRAIN_S or others_wait:
            who = self._name(request.dev_id)
            reply.set_exception(DeviceTimeoutError(f"{who} did not answer within {waited_s:.2g} s"))
        else:
            self._timer = loop.call_later(min(_SLICE_S, left_s), self._look, reply, request, started, timeout_s)

    def _check_age(self, request: ModbusPDU, waited_s: float, timeout_s: float) -> None:
        """Where this process stood still, a reply may have lain in the socket for minutes: it is not news."""
        if waited_s > timeout_s + _CLOCK_GRAIN_S:
            who = self._name(request.dev_id)
            raise DeviceTimeoutError(f"{who}: its answer is too old, {waited_s:.2g} s after the request")

    def _abandon(self, request: ModbusPDU, started: float) -> None:
        """Should its reply come yet, it still says how slow the unit is."""
        self._abandoned[request.transaction_id] = (request.dev_id, started)
        if len(self._abandoned) > _ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def _late(self, transaction: int, message: bytes) -> None:
        """A reply that nobody waits for any more, or that nobody asked for: it is never taken for another's."""
        self._late_replies += 1
        unit, started = self._abandoned.pop(transaction, (None, 0.0))
        if unit is not None:
            took_s = asyncio.get_running_loop().time() - started
            self._answered(unit, self.unit(unit), took_s, silent=says_unit_is_silent(message), late=True)

    def _answered(
        self, unit: int, state: UnitState, response_s: float, *, silent: bool = False, late: bool = False
    ) -> None:
        self._silent_tries = 0
        if silent:
            state.took(response_s)
            if not late:  # the try that it answers late was counted when it was given up
                state.went_silent(response_s)
        elif state.answered(response_s):
            self._log.info("unit answers again", unit=unit)

    def _was_silent(self, wire: Wire, state: UnitState, waited_s: float, frames: int) -> None:
        """A connection on which nothing comes any more may be dead without either side having been told."""
        state.went_silent(waited_s)
        self._silent_tries = self._silent_tries + 1 if wire.frames == frames else 0
        if wire.mid_frame or self._silent_tries >= _SILENT_TRIES:
            self._silent_tries = 0
            self._drop(wire, "half a reply came" if wire.mid_frame else "nothing comes")

    def _give_up(self, unit: int, state: UnitState, error: DeviceError) -> None:
        silent = isinstance(error, DeviceTimeoutError) or (isinstance(error, DeviceFaultError) and error.unit_is_silent)
        now = asyncio.get_running_loop().time()
        if silent and not state.blocked_s(now) and state.given_up(now, alone=len(self._units) == 1):
            self._log.warning("unit does not answer", unit=unit, error=str(error))

    def _refuse_if_dead(self, unit: int, state: UnitState) -> None:
        blocked_s = state.blocked_s(asyncio.get_running_loop().time())
        if blocked_s > 0:
            state.counters.refused += 1
            raise DeviceTimeoutError(f"{self._name(unit)} does not answer; it is tried again in {blocked_s:.1f} s")

    async def _connected(self, timeout_s: float, state: UnitState) -> Wire:
        if self._wire is not None and self._wire.open:
            return self._wire
        loop = asyncio.get_running_loop()
        if self._closed:
            raise DeviceUnreachableError(f"{self.host}:{self.port}: closed by us")
        if loop.time() < self._connect_at:
            state.counters.refused += 1
            left_s = self._connect_at - loop.time()
            raise DeviceUnreachableError(f"{self.host}:{self.port}: no connection; it is tried again in {left_s:.1f} s")
        try:
            async with asyncio.timeout(timeout_s):
                _, wire = await loop.create_connection(self._new_wire, self.host, self.port)
        except OSError as error:  # TimeoutError is one
            self._connect_failed(error)
            reason = error.strerror or str(error) or "no answer"
            raise DeviceUnreachableError(f"{self.host}:{self.port}: cannot connect: {reason}") from None
        if self._closed:
            wire.close()
            raise DeviceUnreachableError(f"{self.host}:{self.port}: closed by us")
        return self._connect_succeeded(wire)

    def _new_wire(self) -> Wire:
        return Wire(f"{self.host}:{self.port}", self._lost, self._late)

    def _connect_failed(self, error: OSError) -> None:
        if self._failed_in_a_row == 0:
            self._log.warning("cannot connect", error=str(error) or "no answer")
        pause_s = min(_LAST_RECONNECT_S, _FIRST_RECONNECT_S * 2.0 ** min(self._failed_in_a_row, 10))
        self._connect_at = asyncio.get_running_loop().time() + pause_s
        self._failed_in_a_row += 1
        self._failed_connects += 1

    def _connect_succeeded(self, wire: Wire) -> Wire:
        if self._connects == 0 or self._failed_in_a_row:
            self._log.info("connected", failed_tries=self._failed_in_a_row)
        self._failed_in_a_row = self._silent_tries = 0
        self._connects += 1
        self._wire = wire
        return wire

    def _lost(self, wire: Wire, why: str) -> None:
        if wire is self._wire:
            self._wire = None
            self._abandoned.clear()
            self._log.info("connection lost", why=why)

    def _drop(self, wire: Wire, why: str) -> None:
        if wire is self._wire:
            self._wire = None
            self._abandoned.clear()
            self._log.info("connection dropped", why=why)
        wire.close()

    def _name(self, unit: int) -> str:
        return f"unit {unit} at {self.host}:{self.port}"


def _may_pass(error: DeviceError) -> bool:
    """Whether the same request may succeed in a moment."""
    return not isinstance(error, DeviceFaultError) or error.passing


@dataclass(frozen=True, slots=True)
class ModbusLink:
    """A connection with the time limit and retries of one device: the transport that its driver is given."""

    connection: ModbusConnection
    timeout_s: float = DEFAULT_TIMEOUT_S
    retries: int = DEFAULT_RETRIES

    async def read(
        self, unit: int, address: int, count: int, *, function: Function = Function.HOLDING
    ) -> Sequence[int]:
        return await self.connection.read(
            unit, address, count, function=function, timeout_s=self.timeout_s, retries=self.retries
        )

    async def write(self, unit: int, address: int, words: Sequence[int]) -> None:
        await self.connection.write(unit, address, words, timeout_s=self.timeout_s, retries=self.retries)


class ConnectionPool:
    """The connections of a process, one per host and port; ``async with`` closes them all."""

    def __init__(self) -> None:
        self._connections: dict[tuple[str, int], ModbusConnection] = {}

    def connection(self, host: str, port: int) -> ModbusConnection:
        key = (host.lower(), port)
        if key not in self._connections:
            self._connections[key] = ModbusConnection(*key)
        return self._connections[key]

    def get(
        self, host: str, port: int, *, timeout_s: float = DEFAULT_TIMEOUT_S, retries: int = DEFAULT_RETRIES
    ) -> ModbusLink:
        """The shared connection to ``host`` and ``port``, with these limits for whoever asked."""
        return ModbusLink(self.connection(host, port), timeout_s, retries)

    async def discard(self, host: str, port: int) -> None:
        """Close a connection that no device uses any more."""
        connection = self._connections.pop((host.lower(), port), None)
        if connection is not None:
            await connection.aclose()

    async def aclose(self) -> None:
        connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            await connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
