"""Questions to one host and port, one after another. Only requests that read can be asked."""

import asyncio
from collections.abc import Sequence

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse

from flux.devices.registers import Function
from flux.devices.transport import BadReplyError, DeviceTimeoutError, DeviceUnreachableError
from flux.devices.wire import Wire, read_request, registers_in

_REGULAR = 2
_MOST_PARTS = 8
_MAX_TRANSACTION = 0xFFFF


class Asking:
    """A connection of a scan: made at the first question, made anew once it was lost. ``async with`` closes it."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self.host, self.port = host, port
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._transaction = 0

    async def __aenter__(self) -> "Asking":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire is not None:
            self._wire.close()
            await self._wire.closed

    async def connect(self) -> Wire:
        """DeviceUnreachableError: nobody listens there."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, wire = await loop.create_connection(self._new_wire, self.host, self.port)
        except OSError as error:  # TimeoutError is one
            raise DeviceUnreachableError(f"{self.host}:{self.port}: {error.strerror or 'no answer'}") from None
        self._wire = wire
        return wire

    def _new_wire(self) -> Wire:
        return Wire(f"{self.host}:{self.port}", lambda _wire, _why: None, lambda _transaction, _message: None)

    async def registers(self, unit: int, address: int, count: int, function: Function) -> Sequence[int]:
        """Raises :class:`flux.errors.DeviceError`."""
        request = read_request(unit, address, count, function)
        return registers_in(await self._ask(request), request)

    async def identification(self, unit: int) -> dict[int, str]:
        """The objects of Modbus function 43/14, by their number: vendor, product, revision … As much as there is."""
        objects: dict[int, str] = {}
        first = 0
        for _ in range(_MOST_PARTS):
            request = ReadDeviceInformationRequest(read_code=_REGULAR, object_id=first, dev_id=unit)
            reply = await self._ask(request)
            if not isinstance(reply, ReadDeviceInformationResponse):
                raise BadReplyError(f"unit {unit} answered a question for its identity with something else")
            objects |= {number: _text(value) for number, value in reply.information.items()}
            if not reply.more_follows or reply.next_object_id <= first:
                break
            first = reply.next_object_id
        return {number: text for number, text in objects.items() if text}

    async def _ask(self, request: ModbusPDU) -> ModbusPDU:
        wire = self._wire
        if wire is None or not wire.open:
            wire = await self.connect()
        self._transaction = request.transaction_id = self._transaction % _MAX_TRANSACTION + 1
        reply = wire.send(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await reply
        except TimeoutError:
            if wire.mid_frame:
                wire.close()  # half a reply: what follows would never fit
            raise DeviceTimeoutError(f"unit {request.dev_id} at {self.host}:{self.port} did not answer") from None
        finally:
            wire.done()


def _text(value: object) -> str:
    parts = value if isinstance(value, list) else [value]
    texts = [part.decode("ascii", "replace") if isinstance(part, bytes) else str(part) for part in parts]
    return " ".join(text.split("\0")[0].strip() for text in texts).strip()
