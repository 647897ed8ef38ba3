"""A Modbus TCP server without Modbus: a test says, byte for byte, what comes back."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Request:
    """A request as it came, and ways to answer it."""

    tid: int
    unit: int
    function: int
    address: int
    count: int
    connection: int  # number of the connection that it came on, from 0
    writer: asyncio.StreamWriter

    def frame(self, *, tid: int | None = None, unit: int | None = None, function: int | None = None) -> bytes:
        """The right reply, but for what is given: each register holds its own address; a write is echoed."""
        code = self.function if function is None else function
        if code in (3, 4):
            words = [address & 0xFFFF for address in range(self.address, self.address + self.count)]
            return self.packed(registers(code, words), tid=tid, unit=unit)
        return self.packed(struct.pack(">BHH", code, self.address, self.count), tid=tid, unit=unit)

    def packed(self, message: bytes, *, tid: int | None = None, unit: int | None = None) -> bytes:
        number = self.tid if tid is None else tid
        return struct.pack(">HHHB", number, 0, len(message) + 1, self.unit if unit is None else unit) + message

    def fault(self, code: int) -> bytes:
        return self.packed(bytes([self.function | 0x80, code]))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def hang_up(self) -> None:
        self.writer.close()


def registers(function: int, words: Sequence[int]) -> bytes:
    """The message that carries ``words``."""
    return struct.pack(f">BB{len(words)}H", function, 2 * len(words), *words)


Answer = Callable[[Request], Awaitable[None] | None]


def obey(request: Request) -> None:
    """What a device does that is well."""
    request.send(request.frame())


class RawServer:
    """Listens on loopback; ``answer`` is called with each request. ``async with`` starts and stops it."""

    def __init__(self, answer: Answer = obey, port: int = 0) -> None:
        self.answer = answer
        self.port = port
        self.requests: list[Request] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                tid, _, length = struct.unpack(">HHH", await reader.readexactly(6))
                body = await reader.readexactly(length)
                unit, function, address, count = struct.unpack(">BBHH", body[:6])
                request = Request(tid, unit, function, address, count, number, writer)
                self.requests.append(request)
                done = self.answer(request)
                if done is not None:
                    await done
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client hung up, or the test did
        finally:
            writer.close()
