"""What goes wrong, as HTTP tells it: ``{"message": …, "error": …}``; the kind tells errors of one status apart."""

from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout

from flux.api.tokens import TokenError
from flux.api.typed.operation import ForbiddenError
from flux.errors import ConflictError, FluxError, InputError, NotFoundError, RefusedError, UnavailableError

_STATUS: tuple[tuple[type[FluxError], int, str], ...] = (
    (TokenError, 401, "key"),
    (ForbiddenError, 403, "forbidden"),
    (InputError, 422, "input"),
    (NotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (RefusedError, 409, "refused"),
    (UnavailableError, 503, "unavailable"),
)
_MEANING = {
    400: "The body is not readable.",
    401: "No key, or one that is not valid.",
    403: "The key's role may not do this.",
    404: "There is no such thing, or it is not one of the key's sites.",
    409: "It exists already, was changed meanwhile, or can't be done in its state.",
    413: "The request is too large.",
    422: "Something in the request is wrong; the message says what.",
    429: "Too many requests; `Retry-After` says when to come again.",
    503: "The database does not answer, or took too long; try again.",
}
_ALWAYS = (400, 401, 403, 413, 422, 429, 503)
_EXAMPLES = {
    400: ("input", "There was an error parsing the body"),
    401: ("key", "no key: send one as `apikey` or `Authorization: Bearer`"),
    403: ("forbidden", "a key of role authenticated may not do this; it needs operator or above"),
    404: ("not_found", "no device 'WLCE-BESS-1'; did you mean WLCE-BESS-01?"),
    409: ("refused", "WLCE-BESS-01: it is not in maintenance, it is active"),
    413: ("input", "the request is larger than 10 MB"),
    422: ("input", "lasts = '2': write it like 4s, 20m or 2h"),
    429: ("too_many", "too many requests; try again in 3 s"),
    503: ("unavailable", "the database does not answer; try again"),
}


def documented(*more: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint, for its description."""
    return {
        status: {
            "description": _MEANING[status],
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["message"],
                        "properties": {"message": {"type": "string"}, "error": {"type": "string"}},
                    },
                    "example": {"message": _EXAMPLES[status][1], "error": _EXAMPLES[status][0]},
                }
            },
        }
        for status in sorted({*_ALWAYS, *more})
    }


def answer_of(error: Exception) -> tuple[int, str, str]:
    """Status, kind and message of an error that a caller can act on."""
    if isinstance(error, FluxError):
        status, kind = next(((code, name) for of, code, name in _STATUS if isinstance(error, of)), (400, "error"))
        return status, kind, str(error)
    if isinstance(error, RequestValidationError):
        return 422, "input", _first_of(error)
    if isinstance(error, psycopg.errors.InvalidAuthorizationSpecification):
        return 401, "key", "this key is not valid any more"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return 403, "forbidden", "the key may not do this, or not for this site"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return 503, "unavailable", "it took too long and was stopped; ask for less at once"
    if isinstance(error, psycopg.DataError):  # text with a NUL in it, a time that PostgreSQL does not know
        return 422, "input", "the request has a value that the database cannot hold"
    # the driver's message can name host and user: it is for the log, not for the client
    return 503, "unavailable", "the database does not answer; try again"


def _first_of(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in {"query", "path", "body"})
    said = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in {"missing", "json_invalid"} or isinstance(first.get("input"), dict | list):
        return f"{where}: {said}" if where else f"the body: {said}"
    return f"{where} = {str(first.get('input'))[:100]!r}: {said}"


async def _respond(_request: Request, error: Exception) -> JSONResponse:
    status, kind, message = answer_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"message": message, "error": kind}, status_code=status, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Answer the errors that a caller can act on; anything else is a bug, and a 500."""
    for kind in (FluxError, RequestValidationError, psycopg.DataError, psycopg.OperationalError, PoolTimeout):
        app.add_exception_handler(kind, _respond)
    app.add_exception_handler(psycopg.errors.InsufficientPrivilege, _respond)
