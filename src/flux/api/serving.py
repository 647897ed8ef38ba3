"""The server around the application: uvicorn, set up in one place, with limits on what comes before a body."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

LONGEST_URL = 64 * 1024
"""Filters like `in.(…)` name many ids."""
LONGEST_HEAD = 96 * 1024
"""The URL and all headers together."""
LONGEST_MESSAGE = 1024 * 1024
"""A message on a socket, in bytes."""
_STOP_WITHIN_S = 10
_FAREWELL_WITHIN_S = 2


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen, and what stands before it. Ports: 0 is any."""

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    proxies: Sequence[str] = ()
    """Addresses and networks of proxies whose X-Forwarded-For and -Proto count; none: no header counts."""
    head_within_s: float = 15.0
    """How long a connection may take to send the head of its first request, and of a later one once it has begun."""


def make_server(app: FastAPI, listening: Listening) -> uvicorn.Server:
    """A server that is not listening yet; ``server.run()`` does until it is told to stop, and lets requests end."""
    config = uvicorn.Config(
        app,
        host=listening.host,
        port=listening.port,
        http=cast("type[asyncio.Protocol]", partial(LimitedHttp, head_within_s=listening.head_within_s)),
        ws=LimitedSocket,
        ws_max_size=LONGEST_MESSAGE,
        # a row that is told to 500 sockets would be compressed 500 times: that costs more than all the rest
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,  # it would repeat URLs
        server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
        proxy_headers=bool(listening.proxies),
        forwarded_allow_ips=list(listening.proxies),
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Ends requests that only wait (`app.state.end_waiting`, where a room sets it) before it waits for the others."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called once it is told to stop, before it waits for what is open."""
        end_waiting = getattr(self.config.app.state, "end_waiting", None)  # type: ignore[union-attr]
        if end_waiting is not None:
            end_waiting()
        await super().shutdown(sockets)


class LimitedSocket(WebSocketsSansIOProtocol):
    """uvicorn's sockets, which take a refusal in HTTP for none at all, and tell each as an error of the server."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Who does not read what was sent before does not get the farewell either, and must not hold up the end."""
        super().shutdown()
        self.loop.call_later(_FAREWELL_WITHIN_S, self.transport.abort)


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which has no limit of its own on URLs, headers and the time that they take."""

    def __init__(self, *, head_within_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._head_within_s = head_within_s
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)  # a header that never ends is told to nobody by the parser
            if self._head_bytes > LONGEST_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long")
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        if len(self.url) > LONGEST_URL:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "the URL is too long")
            raise httptools.HttpParserError("refused")
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > LONGEST_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long")
            raise httptools.HttpParserError("refused")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not ours
        """Also where a request is refused that could be read: the answer is in JSON, as all others are."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer is under way, and another must not come into the middle of it
            return
        status, message = self._refusal or (HTTPStatus.BAD_REQUEST, "this is no HTTP request")
        body = b'{"message": "%s"}' % message.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, status.phrase.encode(), len(body), body)
        )
        self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._refusal = (status, message)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_within_s, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request comes too slowly")
            self.send_400_response("")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
