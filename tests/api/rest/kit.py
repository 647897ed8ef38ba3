"""`/rest/v1` without a server before it: the application on the gateway's login, and whoever a test says is calling."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from flux.api.identity import Identity, Role, set_identity
from flux.api.rest.app import RestApp
from flux.api.rest.room import Limits
from flux.store.db import open_pool


def identity(role: Role = Role.SERVICE, sites: frozenset[str] | None = None) -> Identity:
    """A caller whose token nobody issued: no key of it is looked up."""
    claims: dict[str, Any] = {"role": role.value, "name": f"test {role}"}
    if sites is not None:
        claims["sites"] = sorted(sites)
    return Identity(role, sites, name=f"test {role}", claims=claims)


class As:
    """Says who calls: an application before the application."""

    def __init__(self, app: RestApp, who: Identity) -> None:
        self.app = app
        self.who = who

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        scope["root_path"] = "/rest/v1"
        set_identity(scope, self.who)
        await self.app(scope, receive, send)


class Rest:
    """The application with clients for it."""

    def __init__(self, app: RestApp) -> None:
        self.app = app

    def client(self, who: Identity | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(As(self.app, who or identity()))
        return httpx.AsyncClient(transport=transport, base_url="http://flux/rest/v1")

    async def get(self, path: str, who: Identity | None = None, **headers: str) -> httpx.Response:
        """``path`` as it is written, quotes and all; underscores in names of headers are dashes."""
        async with self.client(who) as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@asynccontextmanager
async def rest_on(
    dsn: str, limits: Limits | None = None, *, check_after_s: float = 0, **options: Any
) -> AsyncIterator[Rest]:
    """On the gateway's DSN."""
    async with open_pool(
        dsn, application_name="test rest", max_size=3, timeout_s=5, check_after_s=check_after_s
    ) as pool:
        yield Rest(RestApp(pool, limits, **options))
