"""An operation of the platform: one function with its HTTP address, and who may call it.

The same operation serves both sides: the HTTP server makes an endpoint of it (:mod:`flux.api.typed.router`), and
the command line calls it on its own database, or sends it to a remote platform by its address::

    @operation("GET", "/v1/devices/{name}", tag="Devices", errors=(404,))
    async def show_device(caller: Caller, name: Name) -> Device:
        return await get_device(caller.conn, name)

Parameters that stand in the path are taken from it; one called ``body`` is the request's JSON; the others are of the
query. What it returns is what the answer's JSON reads back to.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, get_type_hints

from psycopg import AsyncConnection
from pydantic import AfterValidator, Field, StringConstraints

from flux.api.identity import Role
from flux.errors import RefusedError

P = ParamSpec("P")
R = TypeVar("R")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class ForbiddenError(RefusedError):
    """The key is good, and may not do this."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom an operation runs: on which connection, under which name, at which time.

    ``sites`` None: all. ``local``: a person at the platform's own database, not a request. ``order_key``: what the
    caller calls this order, where the operation is ``repeatable``. The connection of a request is in the transaction
    that ends with it; a local one is in autocommit.
    """

    conn: AsyncConnection[Any]
    actor: str
    now: datetime
    sites: frozenset[str] | None = None
    local: bool = False
    order_key: str | None = None


@dataclass(frozen=True, slots=True)
class Operation(Generic[P, R]):
    """A function and its address. ``needs``: the least role that may; ``errors``: its HTTP errors besides the usual.

    ``repeatable``: the header ``Idempotency-Key`` makes one order of several requests.
    """

    function: Callable[Concatenate[Caller, P], Awaitable[R]]
    method: Method
    path: str
    tag: str
    needs: Role
    status: int
    errors: tuple[int, ...]
    repeatable: bool

    async def __call__(self, caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.function(caller, *args, **kwargs)

    @property
    def name(self) -> str:
        """Unique among the operations; the ``operationId`` of OpenAPI."""
        return self.function.__name__

    @property
    def returns(self) -> Any:
        """The type of what it returns, annotations included."""
        return get_type_hints(self.function, include_extras=True)["return"]


def operation(
    method: Method,
    path: str,
    *,
    tag: str,
    needs: Role = Role.AUTHENTICATED,
    status: int = 200,
    errors: tuple[int, ...] = (),
    repeatable: bool = False,
) -> Callable[[Callable[Concatenate[Caller, P], Awaitable[R]]], Operation[P, R]]:
    """Makes an operation of a function whose first parameter is the :class:`Caller`."""

    def made(function: Callable[Concatenate[Caller, P], Awaitable[R]]) -> Operation[P, R]:
        return Operation(function, method, path, tag, needs, status, errors, repeatable)

    return made


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


_TEXT = r"^[^\x00]*$"
"""PostgreSQL's text holds every character but NUL."""

Instant = Annotated[
    datetime,
    AfterValidator(_aware),
    Field(description="A time without an offset is UTC.", examples=["2026-01-15T12:00:00Z"]),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=_TEXT)]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, pattern=_TEXT),
    Field(description="Name or id of the device.", examples=["WLCE-BESS-01"]),
]
Site = Annotated[
    str,
    StringConstraints(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"),
    Field(description="The site's code.", examples=["WLCE"]),
]
OfSite = Annotated[
    str | None,
    StringConstraints(max_length=50, pattern=_TEXT),
    Field(description="Only of this site.", examples=["WLCE"]),
]
Reason = Annotated[Text, Field(description="Why, for whoever reads the history.", examples=["Firmware upgrade"])]
Start = Annotated[Instant | None, Field(description="From then on; default: 24 hours before the end.")]
End = Annotated[Instant | None, Field(description="Until then, not included; default: now.")]


_TIMES = frozenset({"time", "time_b", "timestamp", "last_successful_poll", "first", "last", "known_at"})


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    """What JSON had to write as text is a time again."""
    return {
        key: datetime.fromisoformat(value) if key in _TIMES and isinstance(value, str) else value
        for key, value in row.items()
    }


Row = Annotated[dict[str, Any], AfterValidator(_with_times)]
"""A row as the database has it, by column."""
