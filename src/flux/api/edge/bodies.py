"""The body of a push: bounded in size, as it comes and unpacked, and read into records."""

import asyncio
import zlib

from starlette.requests import Request

from flux.errors import FluxError, InputError
from flux.store.batches import COMPACT, LINES, decode_batch, decode_lines
from flux.store.encoding import Recorded

MOST_BYTES = 8 * 2**20
"""Of a body as it is sent."""
MOST_UNPACKED = 32 * 2**20
_IN_A_THREAD = 64 * 2**10
_GZIP = 31


class TooLargeError(FluxError):
    """A body of more than the server takes; smaller batches may pass."""


class NotReadableError(FluxError):
    """A body in a type or coding that this server does not know; another version may."""


async def records_of(request: Request) -> list[Recorded]:
    """The records of a pushed batch; InputError for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind not in (COMPACT, LINES):
        raise NotReadableError(f"Content-Type is {COMPACT} or {LINES}, not {kind!r}")
    if coding not in ("gzip", "identity"):
        raise NotReadableError(f"Content-Encoding is gzip or none, not {coding!r}")
    data = await _read(request)

    def read() -> list[Recorded]:
        plain = _unpacked(data) if coding == "gzip" else data
        return decode_batch(plain) if kind == COMPACT else decode_lines(plain)

    # a large batch takes tens of milliseconds, in which others would wait
    return await asyncio.to_thread(read) if len(data) > _IN_A_THREAD else read()


async def _read(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise TooLargeError(f"the body is larger than {MOST_BYTES // 2**20} MiB; send smaller batches")
        parts.append(part)
    return b"".join(parts)


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        plain = unpacker.decompress(data, MOST_UNPACKED + 1)
    except zlib.error as error:
        raise InputError(f"the body is not gzip: {error}") from None
    if len(plain) > MOST_UNPACKED:
        raise TooLargeError(f"the body unpacks to more than {MOST_UNPACKED // 2**20} MiB; send smaller batches")
    if not unpacker.eof:
        raise InputError("the body's gzip ends in the middle")
    return plain
