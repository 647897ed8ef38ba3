"""A request of ``/rest/v1`` as its handlers see it, and what they answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flux.api.identity import Identity
from flux.api.rest.errors import ApiError
from flux.api.rest.functions import PROFILE
from flux.api.rest.prefer import Preferences

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
PROFILES = (PROFILE, "public")
"""Names of the one schema there is: its own, and the one that Supabase's clients send unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``name``: of the table or function; empty: the root."""

    method: str
    name: str
    query: bytes
    headers: Mapping[str, str]
    """By lower-case name; several of one name are joined with a comma."""
    prefer: Preferences
    identity: Identity
    receive: Receive
    most_bytes: int
    _read: list[bytes] = field(default_factory=list)

    async def body(self) -> bytes:
        """The whole body, read once; ApiError 413 where it is longer than it may be."""
        if not self._read:
            self._read.append(await self._all())
        return self._read[0]

    async def _all(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "PGRST102", "the body ended too early")
            chunk: bytes = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > self.most_bytes:
                raise ApiError(413, "PGRST102", f"the body is longer than {self.most_bytes} bytes")
            if not message.get("more_body", False):
                return b"".join(chunks)


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back. A body that comes in chunks has begun in the database: it must be read to its end or closed."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


async def while_there(receive: Receive, answering: Awaitable[None]) -> None:
    """Run ``answering`` until the client is gone: nobody reads the rest, and the database need not make it."""
    answerer = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        whole = False
        while (message := await receive())["type"] != "http.disconnect":
            if whole:
                return  # whoever gives the body again and again will not tell
            whole = not message.get("more_body", False)
        if answerer is not None:
            gone = True
            answerer.cancel()

    watching = asyncio.create_task(watch())
    watching.add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # a body that is refused says so itself
    try:
        await answering
    except asyncio.CancelledError:
        if not gone:
            raise
    finally:
        watching.cancel()
        if gone and answerer is not None:
            answerer.uncancel()


def check_profile(request: Request) -> tuple[tuple[str, str], ...]:
    """The header that names the schema again where the request does; ApiError 406 (PGRST106): there is none such."""
    name = "accept-profile" if request.method in {"GET", "HEAD"} else "content-profile"
    profile = request.headers.get(name)
    if profile is None:
        return ()
    if profile not in PROFILES:
        hint = f"Only the following schemas are exposed: {PROFILE}"
        raise ApiError(406, "PGRST106", f"Invalid schema: {profile[:100]}", hint=hint)
    return (("Content-Profile", profile),)


def check_preferences(prefer: Preferences) -> None:
    """ApiError 400 (PGRST122) where ``handling=strict`` comes with a preference that nobody knows."""
    if prefer.strict and prefer.invalid:
        details = f"Invalid preferences: {', '.join(prefer.invalid)}"
        raise ApiError(400, "PGRST122", "Invalid preferences given with handling=strict", details)
