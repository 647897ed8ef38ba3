"""A host and port on which simulated devices answer Modbus TCP."""

import asyncio
import errno
import os
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import cast

import structlog

from flux.devices.simulator.clock import Clock
from flux.devices.simulator.device import SimulatedDevice
from flux.devices.simulator.faults import FaultBoard, FaultKind
from flux.devices.simulator.protocol import GATEWAY_NO_RESPONSE, WRITES, Answer, answer, place_of, refusal
from flux.devices.simulator.replylog import Reply, ReplySink
from flux.errors import InputError

_log = structlog.get_logger(__name__)
_HEADER = struct.Struct(">HHHB")
_MAX_LENGTH = 254
_SILENT = (FaultKind.DROP,)
_REFUSING = (FaultKind.EXCEPTION,)
_REFUSING_WRITES = (FaultKind.REFUSE_WRITES,)
_GARBLING = (FaultKind.GARBAGE,)
_DELAYING = (FaultKind.DELAY,)


class Endpoint:
    """Listens, and answers for its devices. Requests of one connection are answered in order, unless one is delayed."""

    def __init__(
        self, devices: Sequence[SimulatedDevice], clock: Clock, faults: FaultBoard, on_reply: ReplySink, speed: float
    ) -> None:
        self.host, self.port = devices[0].host, devices[0].port
        self.units = {device.unit: device for device in devices}
        self._clock = clock
        self._faults = faults
        self._on_reply = on_reply
        self._speed = speed
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.down_until: datetime | None = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def bind(self) -> None:
        """Take the port without answering yet; raises :class:`InputError` when it is not to be had."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self._connections, self._respond), self.host, self.port, start_serving=False
            )
        except OSError as error:
            names = ", ".join(device.name for device in self.units.values())
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            advice = "stop what uses it, or choose another port" if taken else "choose a host of this machine"
            raise InputError(f"{self.host}:{self.port} ({names}): {reason}; {advice}") from None
        self.port = self._server.sockets[0].getsockname()[1]
        for device in self.units.values():
            device.port = self.port

    async def serve(self) -> None:
        if self._server is not None:
            await self._server.start_serving()

    def close(self) -> None:
        """Stop listening and drop every connection at once, as a device does that loses its power."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.abort()

    def _respond(self, connection: "_Connection", tid: int, unit: int, message: bytes) -> None:
        device = self.units.get(unit)
        if device is None:  # like a gateway that has nobody of that address behind it
            connection.send(tid, unit, bytes((message[0] | 0x80, GATEWAY_NO_RESPONSE)))
            return
        now = self._clock()
        if self._faults.holding(device.name, _SILENT, now):
            return
        result = self._result(device, message, now)
        if self._faults.holding(device.name, _GARBLING, now):
            connection.send_raw(os.urandom(24))
            return
        delay = self._faults.holding(device.name, _DELAYING, now)
        if delay is None:
            self._send(connection, tid, device, result)
        else:
            wall_s = delay.duration.total_seconds() / max(self._speed, 1e-9)
            asyncio.get_running_loop().call_later(wall_s, self._send, connection, tid, device, result)

    def _result(self, device: SimulatedDevice, message: bytes, now: datetime) -> Answer:
        fault = self._faults.holding(device.name, _REFUSING, now)
        if fault is None and message[0] in WRITES:
            fault = self._faults.holding(device.name, _REFUSING_WRITES, now)
        if fault is not None:
            return refusal(message[0], fault.number, *place_of(message))
        return answer(device, message)

    def _send(self, connection: "_Connection", tid: int, device: SimulatedDevice, result: Answer) -> None:
        """Put the reply on record, then send it; nothing is recorded for a connection that is gone."""
        if connection.closed:
            return
        self._on_reply(
            Reply(
                self._clock(),
                device.name,
                device.unit,
                result.function,
                result.address,
                result.count,
                result.words,
                result.exception,
            )
        )
        connection.send(tid, device.unit, result.message)


class _Connection(asyncio.Protocol):
    """One client: takes frames apart and hands their messages on."""

    def __init__(self, register: set["_Connection"], respond: Callable[["_Connection", int, int, bytes], None]) -> None:
        self._register = register
        self._respond = respond
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._register.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._register.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            tid, protocol, length, unit = _HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= _MAX_LENGTH:
                _log.warning("simulator.not_modbus", received=self._buffer[:16].hex(" "))
                self.abort()
                return
            end = 6 + length
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[_HEADER.size : end], self._buffer[end:]
            self._respond(self, tid, unit, message)
            if self.closed:
                return

    def send(self, tid: int, unit: int, message: bytes) -> None:
        self.send_raw(_HEADER.pack(tid, 0, len(message) + 1, unit) + message)

    def send_raw(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
