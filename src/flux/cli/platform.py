"""The platform that a command works on: this host's database, or a remote one over HTTP.

A command calls operations, and does not know where they run::

    with platform() as there:
        devices = there.call(operations.list_devices, site="WLCE")
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from flux.errors import InputError, RefusedError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flux.api.typed.operation import Caller, Operation
    from flux.cli.transfer_ports import Transfers

P = ParamSpec("P")
R = TypeVar("R")
ModelT = TypeVar("ModelT", bound="BaseModel")


class Platform(Protocol):
    """Where operations run."""

    @property
    def page_rows(self) -> int | None:
        """How many rows it gives at once; None: as many as there are."""

    @property
    def page_days(self) -> dict[str, int]:
        """How many days of rollups it gives at once, by level; a level that is not there: as many as there are."""

    @property
    def transfers(self) -> "Transfers":
        """Whole files to it and from it."""

    def call(self, operation: "Operation[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run an operation there; what is wrong is raised as a FluxError."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Another platform: its address, and the key to it, which is shown nowhere."""

    url: str
    key: str | None

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"


_CHOSEN: ContextVar[Remote | None] = ContextVar("platform of this command", default=None)


def choose(url: str | None, key: str | None, key_file: Path | None) -> None:
    """What the options in front of a command say; each command line begins with this."""
    _CHOSEN.set(None if not url else Remote(_checked(url), key or _key_of(key_file)))


def chosen() -> Remote | None:
    """The remote platform of this command; None: this host's own database."""
    return _CHOSEN.get()


def need_database() -> None:
    """RefusedError where the command line names a remote platform: it needs the database itself."""
    remote = chosen()
    if remote is not None:
        raise RefusedError(
            f"this works on the platform's own host only, not over {remote.url}: leave out --url (FLUX_URL)"
        )


def body(model: type[ModelT], **values: object) -> ModelT:
    """What an operation is given, checked; InputError names what is wrong with it."""
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where} = {str(first['input'])[:100]!r}: {said}" if where else said) from None


@contextlib.contextmanager
def platform() -> Iterator[Platform]:
    """The platform of this command, for as long as the block."""
    remote = chosen()
    if remote is None:
        from flux.cli.shared import opened_database

        with opened_database() as dsn:
            yield _LocalPlatform(dsn)
    else:
        from flux.cli.remote import opened_remote

        with opened_remote(remote) as there:
            yield there


class _LocalPlatform:
    """Operations on a database that this host reaches, by whoever types the command."""

    page_rows = None

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.page_days: dict[str, int] = {}

    @property
    def transfers(self) -> "Transfers":
        from flux.cli.transfer_ports import LocalTransfers

        return LocalTransfers(self._dsn)

    def call(
        self, operation: "Callable[Concatenate[Caller, P], Awaitable[R]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        import asyncio
        from datetime import UTC, datetime

        from flux.api.typed.operation import Caller
        from flux.cli.shared import actor
        from flux.store.db import connect

        async def run() -> R:
            async with await connect(self._dsn, application_name="flux cli", autocommit=True) as conn:
                return await operation(Caller(conn, actor(), datetime.now(UTC), local=True), *args, **kwargs)

        return asyncio.run(run())


def _checked(url: str) -> str:
    """InputError for what is no address; RefusedError where the key would go over the network for all to read."""
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
        raise InputError(f"--url {url}: write it like https://flux.example.org")
    if parts.username or parts.password:
        raise InputError("--url: leave the user out of the address, and give a key: FLUX_KEY or --key-file")
    try:
        near = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        near = False
    if parts.scheme == "http" and not near:
        raise RefusedError(f"--url {url}: a key does not go over plain http but to this host itself; use https")
    return url.rstrip("/")


def _key_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no key"
        raise InputError(f"--key-file {file}: {reason}") from None
