"""The body of a push, read into records. Its size is bounded, and gzip unpacked, before it comes here."""

import asyncio

from starlette.requests import Request

from flux.errors import FluxError
from flux.store.batches import COMPACT, LINES, decode_batch, decode_lines
from flux.store.encoding import Recorded

_IN_A_THREAD = 256 * 2**10


class NotReadableError(FluxError):
    """A body of a type that this server does not know; another version may."""


async def records_of(request: Request) -> list[Recorded]:
    """The records of a pushed batch; BatchError for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (COMPACT, LINES):
        raise NotReadableError(f"Content-Type is {COMPACT} or {LINES}, not {kind!r}")
    decode = decode_batch if kind == COMPACT else decode_lines
    data = await request.body()
    # a large batch takes tens of milliseconds, in which others would wait
    return await asyncio.to_thread(decode, data) if len(data) > _IN_A_THREAD else decode(data)
