"""Bodies of requests: no longer than allowed, not slower than a modem, and unpacked here where they are gzip.

What stands behind gets plain bytes whatever the caller sent, and never more than the limit: a small body that unpacks
to a large one is refused at the limit, without being unpacked any further.
"""

import asyncio
import zlib
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux.api.answers import refuse

GRACE_S = 20.0
"""How long a caller may take to begin."""
SLOWEST_BYTES_PER_S = 1024.0
"""How fast it has to be after that, over the whole body."""
_PIECE = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class _RefusedBodyError(Exception):
    """Ends whatever reads a body that is not accepted; :class:`Uploads` has the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Uploads:
    """ASGI middleware; ``monotonic`` in seconds."""

    def __init__(self, app: ASGIApp, most_bytes: int, monotonic: Callable[[], float]) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        encoding = _header(headers, b"content-encoding")
        length = _header(headers, b"content-length")
        if encoding not in (None, b"identity", b"gzip"):
            await refuse(scope, receive, send, 415, "bodies may be plain or gzip")
            return
        if length is not None and int(length) > self._most_bytes:  # the server has checked that it is a number
            await refuse(scope, receive, send, 413, self._too_long())
            return
        if length == b"0" or (length is None and _header(headers, b"transfer-encoding") is None):
            await self._app(scope, receive, send)
            return
        if encoding == b"gzip":
            dropped = (b"content-encoding", b"content-length")
            scope["headers"] = [one for one in headers if one[0] not in dropped]
        body = _Body(receive, self._most_bytes, self._too_long(), self._monotonic, gzip=encoding == b"gzip")
        await self._guarded(scope, body, receive, send)

    async def _guarded(self, scope: Scope, body: "_Body", receive: Receive, send: Send) -> None:
        """Run the application; where its body was refused, that is the answer, whatever it makes of the exception."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if body.refused is not None and not started:
                return
            started = True
            await send(message)

        try:
            await self._app(scope, body.receive, sending)
        except _RefusedBodyError:
            pass
        except Exception:
            if body.refused is None:
                raise
        if body.refused is not None and not started:
            await refuse(scope, receive, send, body.refused.status, str(body.refused))

    def _too_long(self) -> str:
        return f"the body is longer than {self._most_bytes / 1e6:g} MB; send it in parts"


class _Body:
    """The body of one request, as the application receives it."""

    def __init__(
        self, receive: Receive, most_bytes: int, too_long: str, monotonic: Callable[[], float], *, gzip: bool
    ) -> None:
        self.refused: _RefusedBodyError | None = None
        self._receive = receive
        self._left = most_bytes
        self._too_long = too_long
        self._monotonic = monotonic
        self._waited_s = 0.0
        self._arrived = 0
        self._unpack = zlib.decompressobj(_GZIP) if gzip else None
        self._packed = b""
        self._last = False
        self._done = False

    async def receive(self) -> Message:
        if self.refused is not None:
            raise self.refused
        if self._done:
            return await self._receive()  # that the caller went away
        try:
            message = await self._next()
        except _RefusedBodyError as error:
            self.refused = error
            raise
        self._done = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        if not self._packed and not self._last:
            message = await self._arriving()
            if message["type"] != "http.request":
                return message
            data, self._last = message.get("body", b""), not message.get("more_body", False)
            if self._unpack is None:
                return self._counted(data, more=not self._last)
            self._packed = data
        return self._unpacked(self._unpack)  # type: ignore[arg-type]  # packed bytes are kept with it alone

    async def _arriving(self) -> Message:
        """The next message; the time that the application takes meanwhile is not the caller's."""
        allowed = GRACE_S + self._arrived / SLOWEST_BYTES_PER_S - self._waited_s
        began = self._monotonic()
        try:
            async with asyncio.timeout(max(0.0, allowed)):
                message = await self._receive()
        except TimeoutError:
            raise _RefusedBodyError(408, "the body comes too slowly") from None
        self._waited_s += self._monotonic() - began
        self._arrived += len(message.get("body", b""))
        return message

    def _unpacked(self, unpack: "zlib._Decompress") -> Message:
        """One piece, at most as long as what is still allowed and one byte: enough to know that it is too long."""
        try:
            data = unpack.decompress(self._packed, min(_PIECE, self._left + 1))
        except zlib.error:
            raise _RefusedBodyError(400, "the body is not the gzip that its header says") from None
        self._packed = unpack.unconsumed_tail
        if unpack.eof and (unpack.unused_data or self._packed):
            raise _RefusedBodyError(400, "the body goes on after the end of its gzip")
        if self._last and not self._packed and not unpack.eof and not data:
            raise _RefusedBodyError(400, "the body ends before its gzip does")
        return self._counted(data, more=not (unpack.eof and self._last))

    def _counted(self, data: bytes, *, more: bool) -> Message:
        self._left -= len(data)
        if self._left < 0:
            raise _RefusedBodyError(413, self._too_long)
        return {"type": "http.request", "body": data, "more_body": more}


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value.strip().lower() for key, value in headers if key == name), None)
