"""How requests of edges are answered when something is wrong, and who may make them."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from psycopg_pool import PoolTimeout

from flux.api.edge.bodies import NotReadableError
from flux.api.identity import Identity, Role, identity_of
from flux.errors import ConflictError, FluxError, InputError, NotFoundError, RefusedError, UnavailableError

_logger = structlog.get_logger(__name__)

SITE_HEADER = "Flux-Site"
_ROLES = frozenset({Role.EDGE, Role.SERVICE})
_ANSWERS: tuple[tuple[type[FluxError], int, str], ...] = (
    (NotReadableError, 415, "not_readable"),
    (InputError, 422, "input"),
    (NotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (RefusedError, 409, "refused"),
    (UnavailableError, 503, "unavailable"),
)


class NoKeyError(FluxError):
    """There is no key, or one that does not hold (any more)."""


class NotAllowedError(FluxError):
    """The key is in order, and is not for this."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An edge: who it is, and the one site that it speaks for."""

    identity: Identity
    site: str


def caller_of(request: Request) -> Caller:
    """The edge that makes ``request``: its key names one site, or the header ``Flux-Site`` says which of several."""
    identity = identity_of(request.scope)
    if identity.role is Role.ANON:
        raise NoKeyError("a key is needed: send it as `apikey`, or as a bearer token")
    if identity.role not in _ROLES:
        raise NotAllowedError(f"a key of role {identity.role} may not do what an edge does")
    asked = request.headers.get(SITE_HEADER)
    if asked is None:
        if identity.sites is None or len(identity.sites) != 1:
            raise InputError(f"the key is not for one site: name yours in the header {SITE_HEADER}")
        (asked,) = identity.sites
    if identity.sites is not None and asked not in identity.sites:
        raise NotAllowedError(f"the key is not for site {asked}")
    return Caller(identity, asked)


class EdgeRoute(APIRoute):
    """Answers errors as ``{"error": …, "message": …}``: the word is for the program, the text for a person."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except NoKeyError as error:
                return problem(401, "key", str(error))
            except NotAllowedError as error:
                return problem(403, "key", str(error))
            except FluxError as error:
                status, word = next(((s, w) for kind, s, w in _ANSWERS if isinstance(error, kind)), (400, "input"))
                return problem(status, word, str(error))
            except psycopg.errors.InvalidAuthorizationSpecification:
                return problem(401, "key", "the key has been revoked")
            except (psycopg.OperationalError, PoolTimeout) as error:
                # the driver's message can name host and user: it is for the log, not for the client
                _logger.warning("an edge was not answered", error=" ".join(str(error).split()))
                return problem(503, "unavailable", "the database does not answer; try again")

        return handler


def problem(status: int, word: str, message: str) -> Response:
    """An error as a response."""
    return JSONResponse({"error": word, "message": message}, status_code=status)
