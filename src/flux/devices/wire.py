"""One TCP connection that carries Modbus frames: one request out, its own reply back.

Frames and messages are pymodbus's. The matching is stricter than that of its client, which takes a reply with
transaction id 0 for any request, waits out the time limit when the connection is lost, and leaves a connection open on
which garbage arrived (docs/decisions/0005-modbus-client.md).
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import cast

from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
)

from flux.devices.registers import Function
from flux.devices.transport import BadReplyError, DeviceFaultError, DeviceUnreachableError

_HEADER = struct.Struct(">HHH")
_MAX_LENGTH = 254  # unit and message; the header says the length of these


class _ReadReply(ReadHoldingRegistersResponse):
    """pymodbus's reply, unpacked in one go and without a text for a log that nobody reads: twice as fast."""

    def decode(self, data: bytes) -> None:
        size = data[0]
        if size % 2 or size != len(data) - 1:
            raise ValueError(f"{size} bytes announced, {len(data) - 1} came")
        self.registers = struct.unpack(f">{size // 2}H", data[1:])

    def __str__(self) -> str:
        return f"reply of {len(self.registers)} registers"


class _ReadInputReply(_ReadReply):
    function_code = 4


def read_request(unit: int, address: int, count: int, function: Function) -> ModbusPDU:
    kind = ReadHoldingRegistersRequest if function == Function.HOLDING else ReadInputRegistersRequest
    return kind(dev_id=unit, address=address, count=count)


def write_request(unit: int, address: int, words: Sequence[int]) -> ModbusPDU:
    """Function 16 for one register as well: every device that takes commands knows it."""
    return WriteMultipleRegistersRequest(dev_id=unit, address=address, registers=list(words))


def registers_in(reply: ModbusPDU, request: ModbusPDU) -> Sequence[int]:
    """The registers of the reply to a read, as many as were asked for."""
    if len(reply.registers) != request.count:
        raise BadReplyError(f"asked for {request.count} registers, {len(reply.registers)} came")
    return reply.registers


def check_echo(reply: ModbusPDU, request: ModbusPDU) -> None:
    """A device acknowledges a write by repeating where and how much it wrote."""
    wrote = (reply.address, reply.count)
    if not isinstance(reply, WriteMultipleRegistersResponse) or wrote != (request.address, request.count):
        raise BadReplyError(f"wrote {request.count} registers at {request.address}, the device acknowledged {wrote}")


class Wire(asyncio.Protocol):
    """The connection itself. ``on_lost`` is called once, when it is gone, with the reason;
    ``on_late`` for each reply that answers no request under way, with its transaction id and message."""

    def __init__(
        self, peer: str, on_lost: Callable[["Wire", str], None], on_late: Callable[[int, bytes], None]
    ) -> None:
        self._peer = peer
        decoder = DecodePDU(False)
        decoder.register(_ReadReply)
        decoder.register(_ReadInputReply)
        self._framer = FramerSocket(decoder)
        self._on_lost, self._on_late = on_lost, on_late
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._dropped = ""
        self._request: ModbusPDU | None = None
        self._reply: asyncio.Future[ModbusPDU] | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self.frames = 0

    @property
    def open(self) -> bool:
        return self._transport is not None

    @property
    def mid_frame(self) -> bool:
        """Whether part of a frame has come: what follows may never fit it."""
        return bool(self._buffer)

    def send(self, request: ModbusPDU) -> asyncio.Future[ModbusPDU]:
        """Send; the future gets the reply that matches, or the error. Call :meth:`done` when it is no longer wanted."""
        reply = self._reply = asyncio.get_running_loop().create_future()
        self._request = request
        if self._transport is None:
            reply.set_exception(DeviceUnreachableError(f"{self._peer}: the connection was lost"))
        else:
            self._transport.write(self._framer.buildFrame(request))
        return reply

    def done(self) -> None:
        """Forget the request; should its reply come yet, it is passed over."""
        self._request = self._reply = None

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()  # nothing of ours is worth waiting for in the buffers of a peer that is silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        why = self._dropped or str(exc or "closed by the other side")
        self._fail(DeviceUnreachableError(f"{self._peer}: the connection was lost ({why})"))
        self._on_lost(self, why)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= FramerSocket.MIN_SIZE:
            tid, protocol, length = _HEADER.unpack_from(self._buffer)
            if protocol != 0 or not 2 <= length <= _MAX_LENGTH:
                self._drop(f"what came is not Modbus: {self._buffer[:16].hex(' ')}")
                return
            used, unit, _, message = self._framer.decode(self._buffer)
            if not used:
                return  # the rest of the frame is yet to come
            self._buffer = self._buffer[used:]
            self.frames += 1
            self._frame(tid, unit, message)

    def _frame(self, tid: int, unit: int, message: bytes) -> None:
        request, reply = self._request, self._reply
        if request is None or reply is None or reply.done() or tid != request.transaction_id:
            self._on_late(tid, message)
            return
        if unit != request.dev_id or message[0] & 0x7F != request.function_code:
            self._drop(f"unit {unit} answered with function {message[0]} to a request for another")
            return
        answer = self._decode(message)
        if answer is None:
            self._drop(f"the answer cannot be read: {message[:16].hex(' ')}")
        elif isinstance(answer, ExceptionResponse):
            what = f"unit {unit}, function {request.function_code} at {request.address}"
            reply.set_exception(DeviceFaultError(answer.exception_code, what))
        else:
            reply.set_result(answer)

    def _decode(self, message: bytes) -> ModbusPDU | None:
        try:
            return self._framer.decoder.decode(message)
        except (ModbusException, ValueError, IndexError, struct.error):
            return None  # pymodbus returns None for most of these itself

    def _drop(self, why: str) -> None:
        """After this nothing on the connection can be trusted."""
        self._buffer = b""
        self._dropped = why
        self._fail(BadReplyError(f"{self._peer}: {why}"))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
