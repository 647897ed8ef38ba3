"""A TCP proxy between an edge and its platform that loses answers, or everything, as a bad line does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Between:
    """``lose_answers``: so many of the next answers are read from the platform and never reach the edge.

    ``cut``: nobody is let through; connections that there are end.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.lose_answers = 0
        self.lost = 0
        self.cut = False

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hang_up(self) -> None:
        """End every connection that there is."""
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.cut:
                return
            back, on = await asyncio.open_connection("127.0.0.1", self._to)
            self._open.add(on)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, on))
                group.create_task(self._answer(back, writer))
        except* OSError:
            pass
        finally:
            writer.close()
            self._open.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.lose_answers:
                    self.lose_answers -= 1
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Between"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._server:
            yield self
            self.hang_up()
