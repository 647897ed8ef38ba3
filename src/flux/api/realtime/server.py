"""The ASGI application of ``/realtime/v1``: sockets at ``/websocket``, and what keeps them honest."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import parse_qs
from uuid import UUID

import psycopg
import structlog
from starlette.types import Receive, Scope, Send

from flux.api.answers import refuse
from flux.api.database import as_caller
from flux.api.identity import Identity, Role, identity_of
from flux.api.realtime.catalogue import Catalogue
from flux.api.realtime.channel import Channel
from flux.api.realtime.cursor import Cursor
from flux.api.realtime.hub import Hub
from flux.api.realtime.limits import DEFAULT_LIMITS, Limits
from flux.api.realtime.log import Pool
from flux.api.realtime.protocol import version_of
from flux.api.realtime.socket import Socket, Verify
from flux.errors import InputError

_logger = structlog.get_logger(__name__)
_LOOK_EVERY_S = 1.0
_KEYS_EVERY = timedelta(seconds=10)
"""How soon the channels of a revoked key are closed."""
_POSITION_EVERY = timedelta(seconds=15)


class Realtime:
    """Mount it at ``/realtime/v1``, and use it with ``async with`` for as long as it serves.

    ``verify``: who a token belongs to; raises FluxError for one that is not valid.
    """

    def __init__(
        self, pool: Pool, dsn: str, verify: Verify, *, clock: Callable[[], datetime], limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._pool = pool
        self._verify = verify
        self._clock = clock
        self._limits = limits
        self._hub = Hub(pool, dsn)
        self._hub.after_turn = self._after_turn
        self._catalogue = Catalogue(pool, clock)
        self._sockets: set[Socket] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._positions_told = clock()

    async def __aenter__(self) -> "Realtime":
        await self._hub.__aenter__()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._hub.__aexit__(*exception)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or not scope["path"].rstrip("/").endswith("/websocket"):
            await refuse(scope, receive, send, 404, "here is nothing but the socket at /realtime/v1/websocket")
            return
        await receive()  # that it wants to connect
        identity = identity_of(scope)
        parameters = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        try:
            version = version_of(parameters.get("vsn", [None])[0])
        except InputError as error:
            await refuse(scope, receive, send, 400, str(error))
            return
        if identity.role is Role.ANON:
            await refuse(scope, receive, send, 403, "this key may not follow anything")
            return
        socket = Socket(identity, version, self._hub, self._catalogue, self._verify, self._limits, self._clock)
        self._sockets.add(socket)
        try:
            await socket.run(receive, send)
        finally:
            self._sockets.discard(socket)

    def _channels(self) -> list[tuple[Socket, Channel]]:
        return [(socket, channel) for socket in self._sockets for channel in socket.channels.values()]

    async def _after_turn(self, position: Cursor) -> None:
        now = self._clock()
        again = now - self._positions_told >= _POSITION_EVERY
        if again:
            self._positions_told = now
        for _, channel in self._channels():
            if channel.live:
                channel.tell_position(position, again=again)

    async def _keep(self) -> None:
        """Channels end with their keys: at once when one expires, soon after it was revoked."""
        asked_at = self._clock()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = self._clock()
            for socket, channel in self._channels():
                expires = channel.identity.expires_at
                if expires is not None and expires <= now:
                    socket.expel(channel, "the key has expired: renew it with the event access_token")
            if now - asked_at >= _KEYS_EVERY:
                asked_at = now
                try:
                    await self._expel_revoked()
                except psycopg.Error as error:  # (and asked again: a task that ends would let keys live for ever)
                    _logger.warning("realtime: keys could not be checked", error=type(error).__name__)

    async def _expel_revoked(self) -> None:
        by_key: dict[UUID, Identity] = {
            channel.identity.key_id: channel.identity
            for _, channel in self._channels()
            if channel.identity.key_id is not None
        }
        for key_id, identity in by_key.items():
            try:
                async with as_caller(self._pool, identity):
                    pass
            except psycopg.errors.InvalidAuthorizationSpecification as error:
                reason = error.diag.message_primary or "the key was revoked"
                for socket, channel in self._channels():
                    if channel.identity.key_id == key_id:
                        socket.expel(channel, reason)
