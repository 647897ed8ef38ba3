"""One socket: its channels, what comes in and what goes out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg
import structlog
from starlette.types import Receive, Send

from flux.api.identity import Identity
from flux.api.realtime.catalogue import Catalogue
from flux.api.realtime.channel import Channel, follow, move, resolve
from flux.api.realtime.cursor import CursorTooOldError
from flux.api.realtime.hub import Hub
from flux.api.realtime.join import Join, read_join
from flux.api.realtime.limits import Limits
from flux.api.realtime.outbox import Outbox
from flux.api.realtime.protocol import HEARTBEAT_TOPIC, TOPIC_PREFIX, Address, Event, Frame, Version, decode
from flux.errors import FluxError, InputError, RefusedError

_logger = structlog.get_logger(__name__)
Verify = Callable[[str], Awaitable[Identity]]

TOO_SLOW = 1013
"""Try again later: the client did not keep up."""
WRONG = 1008
"""What it sent is no message of this protocol, or too large."""
IDLE = 1001
_CLOSE_WITHIN_S = 5.0
_NOT_SERVED = "broadcast and presence are not served here: this server tells changes of the database"
_KEY_ERROR = psycopg.errors.InvalidAuthorizationSpecification


class _EndError(Exception):
    """The socket is to be closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Socket:
    """Serve it with :meth:`run`. ``channels`` by topic."""

    def __init__(
        self,
        identity: Identity,
        version: Version,
        hub: Hub,
        catalogue: Catalogue,
        verify: Verify,
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._identity = identity
        self._version = version
        self._hub = hub
        self._catalogue = catalogue
        self._verify = verify
        self._limits = limits
        self._clock = clock
        self._outbox = Outbox(limits.queue_bytes)
        self._joins = limits.joins
        self._joins_at = time.monotonic()
        self.channels: dict[str, Channel] = {}

    async def run(self, receive: Receive, send: Send) -> None:
        """Until the client goes, or has to."""
        await send({"type": "websocket.accept"})
        tasks = [
            asyncio.create_task(self._read(receive)),
            asyncio.create_task(self._write(send)),
            asyncio.create_task(self._outbox.overrun.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code, reason = self._ending(tasks, done)
        finally:
            for task in tasks:
                task.cancel()
            for channel in list(self.channels.values()):
                self._forget(channel)
            await asyncio.gather(*tasks, return_exceptions=True)
        if code is not None:
            with suppress(OSError):  # who has gone or does not read (a timeout) gets no farewell
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await send({"type": "websocket.close", "code": code, "reason": reason})

    def _ending(self, tasks: list[asyncio.Task[Any]], done: set[asyncio.Task[Any]]) -> tuple[int | None, str]:
        """With which code to close; None: the client has gone already."""
        reading, writing, overrun = tasks
        if overrun in done:
            _logger.warning("realtime: dropped a client that did not keep up", caller=self._identity.name)
            return TOO_SLOW, "this client does not keep up; join again with its cursor"
        for task in (reading, writing):
            if task in done and (error := task.exception()) is not None:
                if isinstance(error, _EndError):
                    return error.code, error.reason
                if not isinstance(error, OSError):
                    raise error
        return None, ""

    async def _write(self, send: Send) -> None:
        while True:
            for message in await self._outbox.take():
                await send({"type": "websocket.send", "text": message})
                self._outbox.sent(message)

    async def _read(self, receive: Receive) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    event = await receive()
            except TimeoutError:
                raise _EndError(IDLE, "not a word, not even a heartbeat") from None
            if event["type"] == "websocket.disconnect":
                return
            if event["type"] != "websocket.receive":
                continue
            data: str | bytes = event["text"] if event.get("text") is not None else event["bytes"]
            if len(data) > self._limits.message_bytes:
                raise _EndError(WRONG, f"a message has at most {self._limits.message_bytes} bytes")
            try:
                frame = decode(self._version, data)
            except InputError as error:
                raise _EndError(WRONG, str(error)) from None
            await self._handle(frame)

    async def _handle(self, frame: Frame) -> None:
        address = Address(self._version, frame.topic, frame.join_ref)
        try:
            await self._answer(frame, address)
        except _KEY_ERROR as error:
            self._refuse(frame, address, error.diag.message_primary or "the key is refused")
        except CursorTooOldError as error:
            self._refuse(frame, address, str(error), code="cursor_too_old")
            self._outbox.put(address.system("error", str(error), code="cursor_too_old"))
        except FluxError as error:
            self._refuse(frame, address, str(error))
        except UnicodeEncodeError:  # half of a surrogate pair
            self._refuse(frame, address, "a text in it is not Unicode")
        except (psycopg.DataError, psycopg.errors.StatementTooComplex) as error:  # no value of its column
            self._refuse(frame, address, f"filter: {error.diag.message_primary or 'a value cannot be read'}")
        except Exception as error:
            _logger.exception("realtime: a message could not be answered", asked=frame.event)
            who = "database" if isinstance(error, psycopg.Error) else "server"
            self._refuse(frame, address, f"the {who} could not answer; try again")

    def _refuse(self, frame: Frame, address: Address, reason: str, **more: str) -> None:
        self._outbox.put(address.reply(frame.ref, "error", {"reason": reason, **more}))

    async def _answer(self, frame: Frame, address: Address) -> None:
        channel = self.channels.get(frame.topic)
        if frame.topic == HEARTBEAT_TOPIC and frame.event == Event.HEARTBEAT:
            self._outbox.put(address.reply(frame.ref, "ok", {}))
        elif frame.event == Event.JOIN:
            await self._join(frame, address)
        elif channel is None:
            raise InputError("unmatched topic: join it first")
        elif frame.event == Event.LEAVE:
            self._forget(channel)
            self._outbox.put(address.reply(frame.ref, "ok", {}))
            channel.close()
        elif frame.event == Event.ACCESS_TOKEN:
            await self._renew(frame, channel)
        elif frame.event in (Event.BROADCAST, Event.PRESENCE):
            raise RefusedError(_NOT_SERVED)
        elif frame.event == Event.HEARTBEAT:
            self._outbox.put(address.reply(frame.ref, "ok", {}))
        else:
            raise InputError(f"unmatched event {frame.event[:50]!r}")

    async def _join(self, frame: Frame, address: Address) -> None:
        before = self.channels.get(frame.topic)
        self._check_join(frame, before)
        asked = read_join(frame.payload, self._limits.bindings)
        others = sum(len(channel.asked) for channel in self.channels.values() if channel is not before)
        if others + len(asked.asked) > self._limits.bindings_of_socket:
            raise RefusedError(f"a socket has at most {self._limits.bindings_of_socket} subscriptions in all")
        identity = self._identity if asked.token is None else await self._verify(asked.token)
        if identity.expires_at is not None and identity.expires_at <= self._clock():
            raise RefusedError("the key has expired: join with an access_token that holds")
        following = await resolve(self._catalogue, identity, asked.asked)
        if asked.cursor is not None:
            await self._hub.log.check(asked.cursor)
        if before is not None:  # as Phoenix does: whoever joins again leaves first
            self._forget(before)
            before.close()
        channel = Channel(
            address, identity, asked.asked, following, asked.wants_cursor, self._outbox, self._closed_by_server
        )
        self.channels[frame.topic] = channel
        self._outbox.put(address.reply(frame.ref, "ok", {"postgres_changes": [one.answer for one in asked.asked]}))
        if asked.presence:
            self._outbox.put(address.system("ok", _NOT_SERVED, "presence"))
        channel.task = asyncio.create_task(self._follow(channel, asked))

    def _check_join(self, frame: Frame, before: Channel | None) -> None:
        if not frame.topic.startswith(TOPIC_PREFIX) or frame.topic == TOPIC_PREFIX:
            raise InputError(f"topics begin with {TOPIC_PREFIX}")
        if before is None and len(self.channels) >= self._limits.channels:
            raise RefusedError(f"ChannelRateLimitReached: a socket has at most {self._limits.channels} channels")
        now = time.monotonic()
        grown = (now - self._joins_at) / self._limits.join_every_s
        if grown >= 1:
            self._joins = min(self._limits.joins, self._joins + int(grown))
            self._joins_at = now
        if self._joins <= 0:
            raise RefusedError("ClientJoinRateLimitReached: too many joins at once; wait a little")
        self._joins -= 1

    async def _follow(self, channel: Channel, asked: Join) -> None:
        """A task of its own: while a channel catches up the others of its socket go on."""
        if not asked.asked:
            return
        try:
            await follow(self._hub, channel, asked.cursor)
        except CursorTooOldError as error:
            channel.fail(str(error))
        except Exception:
            _logger.exception("realtime: a channel could not catch up")
            channel.fail("the rows could not be read; join again with the last cursor")

    async def _renew(self, frame: Frame, channel: Channel) -> None:
        token = frame.payload.get("access_token")
        if token is None:
            return
        try:
            if not isinstance(token, str):
                raise InputError("access_token is a text")
            identity = await self._verify(token)
            following = await resolve(self._catalogue, identity, channel.asked)
        except (FluxError, _KEY_ERROR) as error:
            self._forget(channel)
            channel.close(str(error) if isinstance(error, FluxError) else "the key was revoked")
            return
        await move(self._hub, channel, identity, following)

    def expel(self, channel: Channel, reason: str) -> None:
        """Close a channel whose key no longer holds."""
        self._forget(channel)
        channel.close(reason)

    def _closed_by_server(self, channel: Channel) -> None:
        self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        if self.channels.get(channel.address.topic) is channel:
            del self.channels[channel.address.topic]
        self._hub.remove(channel)
        if channel.task is not None and channel.task is not asyncio.current_task():
            channel.task.cancel()
