"""A live server: real sockets, real keys, the test's own database behind the gateway's login.

It runs in a thread with an event loop of its own, so that clients that block can be used from a test's thread::

    with live_server_on(dsn) as live:
        httpx.get(f"{live.url}/v1/devices", headers=live.headers("operator", sites=["WLCE"]))
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any
from uuid import UUID

import jwt
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from flux.api.app import create_app
from flux.api.identity import Role
from flux.api.jwks import verifier_of
from flux.api.serving import Listening, make_server
from flux.api.tokens import issue_token
from flux.config import Settings
from flux.store.gateway import gateway_dsn

SECRET = b"the secret of the live server in tests, long enough"


@dataclass(frozen=True, slots=True)
class LiveServer:
    """``dsn`` is the superuser's, for the test to look and to write behind the server's back."""

    url: str
    dsn: str
    app: FastAPI
    stop: Callable[[], None]
    """As a signal does, and wait until it has."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def key(self, role: str = "service", sites: Iterable[str] | None = None, **claims: Any) -> str:
        """A key that holds for an hour; ``sites`` None: every site. ``claims`` go before everything else."""
        return key(role, sites, **claims)

    def headers(self, role: str = "service", sites: Iterable[str] | None = None, **claims: Any) -> dict[str, str]:
        """As Supabase clients send a key."""
        token = key(role, sites, **claims)
        return {"apikey": token, "Authorization": f"Bearer {token}"}


def key(role: str = "service", sites: Iterable[str] | None = None, **claims: Any) -> str:
    now = datetime.now(UTC)
    jti = claims.pop("jti", None)
    token = issue_token(
        SECRET,
        role=Role(role),
        name=claims.pop("name", f"test {role}"),
        issued_at=now,
        sites=sites,
        key_id=None if jti is None else UUID(str(jti)),
        expires_at=now + timedelta(hours=1),
    )
    if not claims:
        return token
    payload = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(payload | claims, SECRET, algorithm="HS256")


@contextmanager
def live_server_on(
    dsn: str,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    listening: Listening | None = None,
    **settings: Any,
) -> Iterator[LiveServer]:
    """A server on the database of ``dsn``, a superuser's; ``settings`` are fields of :class:`flux.config.Settings`.

    Requests are not limited unless ``rate_…`` says so: a suite asks more than any client.
    """
    with TemporaryDirectory(prefix="flux-live-") as folder:
        unlimited = {f"rate_{role.value}": "off" for role in Role}
        given = {
            **unlimited,
            "access_log": False,
            "home": Path(folder),
            "jwt_secret": SecretStr(SECRET.decode()),
            **settings,
        }
        chosen = Settings(**given)
        verifier = verifier_of(chosen, clock, monotonic)
        app = create_app(gateway_dsn(dsn, chosen.home), chosen, verifier, clock=clock)
        server = make_server(app, listening or Listening())
        scheme = "https" if listening is not None and listening.tls_cert else "http"
        with socket.create_server(("127.0.0.1", 0)) as port, _running(server, port) as stop:
            yield LiveServer(f"{scheme}://127.0.0.1:{port.getsockname()[1]}", dsn, app, stop)


@contextmanager
def _running(server: uvicorn.Server, listening: socket.socket) -> Iterator[Callable[[], None]]:
    started = threading.Event()
    failed: list[BaseException] = []

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await begin(sockets)
        started.set()

    def run() -> None:
        try:
            server.run([listening])
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)
        finally:
            started.set()

    begin = server.startup
    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=run, name="live server")
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(20)

    try:
        assert started.wait(20), "the live server did not start"
        assert server.started, f"the live server did not start: {failed}"
        yield stop
    finally:
        stop()
    assert not thread.is_alive(), "the live server did not stop"
    assert not failed, failed
