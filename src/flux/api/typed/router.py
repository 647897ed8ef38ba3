"""Endpoints of operations: who calls is checked first, then the operation runs as the caller, in one transaction."""

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from flux.api.database import SERVER_ROLE, as_caller
from flux.api.identity import Identity, Role, identity_of
from flux.api.typed import operations
from flux.api.typed.operation import Caller, ForbiddenError, Operation
from flux.api.typed.problems import documented

_ORDER = (Role.AUTHENTICATED, Role.OPERATOR, Role.SERVICE)
_ORDER_KEY = inspect.Parameter(
    "idempotency_key",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="A request that is sent again with the same key is the same order, and answers with its job.",
        ),
    ],
)


def typed_router() -> APIRouter:
    """Every typed endpoint. The application's state has the ``pool`` and the ``clock``."""
    return router_of(operations.all_operations())


def router_of(several: Sequence[Operation[Any, Any]]) -> APIRouter:
    """Endpoints of these operations."""
    router = APIRouter(dependencies=key_schemes())
    for one in several:
        summary, _, description = inspect.cleandoc(one.function.__doc__ or "").partition("\n")
        router.add_api_route(
            one.path,
            endpoint_of(one),
            methods=[one.method],
            tags=[one.tag],
            operation_id=one.name,
            summary=summary.removesuffix("."),
            description=f"{description.strip()}\n\nNeeds a key of role {one.needs} or above.".strip(),
            status_code=one.status,
            response_model=None if one.returns is type(None) else one.returns,
            responses=documented(*one.errors),
        )
    return router


def key_schemes() -> list[Any]:
    """How a key is sent, for the description: as bearer token or in the header ``apikey``."""
    return [
        Security(HTTPBearer(auto_error=False, scheme_name="bearer", description="A key of `flux keys create`.")),
        Security(APIKeyHeader(name="apikey", auto_error=False, scheme_name="apikey", description="The same key.")),
    ]


def endpoint_of(one: Operation[Any, Any]) -> Callable[..., Any]:
    """The operation's function as FastAPI wants it: its first parameter comes of the request."""
    function = one.function

    async def endpoint(caller: Caller, idempotency_key: str | None = None, **arguments: Any) -> Any:
        return await function(replace(caller, order_key=idempotency_key), **arguments)

    hints = get_type_hints(function, include_extras=True)
    first, *others = inspect.signature(function).parameters.values()
    # commits, or fails to, before the answer begins
    given = Annotated[Caller, Depends(caller_with(one.needs), scope="function")]
    parameters = [
        first.replace(name="caller", annotation=given, kind=inspect.Parameter.KEYWORD_ONLY),
        *(
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in others
        ),
        *((_ORDER_KEY,) if one.repeatable else ()),
    ]
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    endpoint.__name__ = one.name
    return endpoint


def caller_with(least: Role) -> Callable[[Request], AsyncIterator[Caller]]:
    """A dependency: the caller, in a transaction of its own; ForbiddenError for others."""

    async def caller(request: Request) -> AsyncIterator[Caller]:
        identity = permitted(request, least)
        pool, request_id = request.app.state.pool, request.state.request_id
        async with as_caller(pool, identity, role=SERVER_ROLE, request_id=request_id) as conn:
            yield Caller(conn, identity.name, request.app.state.clock(), identity.sites)

    return caller


def permitted(request: Request, least: Role) -> Identity:
    """Who calls, if its role is ``least`` or above."""
    identity = identity_of(request.scope)
    if identity.role not in _ORDER or _ORDER.index(identity.role) < _ORDER.index(least):
        raise ForbiddenError(f"a key of role {identity.role} may not do this; it needs {least} or above")
    return identity
