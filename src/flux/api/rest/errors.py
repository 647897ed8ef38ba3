"""Errors of ``/rest/v1`` in the shape that PostgREST gives them, and the HTTP status that goes with each."""

import json
import re
from typing import Any

import psycopg

from flux.api.identity import Role

_STATUS_OF_STATE = {
    "23503": 409,  # a foreign key
    "23505": 409,  # a duplicate
    "25006": 405,  # a write in a transaction that only reads
    "42501": 403,  # no right to it; 401 for who has no key
    "42883": 404,  # no such function
    "42P01": 404,  # no such table
    "44000": 403,  # a row that the caller could not see, or would not
    "54000": 413,  # more than the database can take in one
    "54001": 400,  # nested too deeply
    "54011": 400,
    "54023": 400,
    "55000": 400,  # not in the state for it: a row that no rule lets be changed
    "55006": 503,  # being dropped at the moment: a retired partition
    "57014": 504,  # took longer than a statement may
    "28000": 401,  # a key that was revoked
}
_STATUS_OF_CLASS = {"08": 503, "0L": 403, "0P": 403, "28": 401, "40": 503, "53": 503, "55": 503, "57": 503, "58": 503}
"""By the first two characters; every other error is the request's (400), but what follows is our bug (500)."""
_OURS = {"XX", "F0", "HV", "2D", "3B"}
_LOST_PLUS = re.compile(r'[0-9] [0-9]{2}(:?[0-9]{2})?"\Z')
"""The end of a time whose offset has lost its sign."""
_HIDDEN = {"08", "53", "57", "58", "XX", "F0", "HV", "28"}
"""Their messages name hosts, users and files: those are for the log."""


class ApiError(Exception):
    """What a request of ``/rest/v1`` is refused with."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Any = None,
        hint: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.headers = headers

    def body(self) -> bytes:
        """JSON with the four fields that clients know."""
        said = {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint}
        return json.dumps(said, ensure_ascii=False).encode()


def from_database(error: psycopg.Error, role: Role) -> ApiError:
    """What PostgreSQL refused, by its SQLSTATE; ``role`` of who asked."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.DataError):  # a value that the driver cannot send, such as text with a NUL
            return ApiError(400, "22P02", "a value of the request is none that the database can hold")
        return ApiError(503, "PGRST001", "the database does not answer; try again")
    status = _STATUS_OF_STATE.get(state) or _STATUS_OF_CLASS.get(state[:2]) or (500 if state[:2] in _OURS else 400)
    if state == "42501" and role is Role.ANON:
        status = 401
    headers = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
    if state == "57014":
        return ApiError(504, state, "the statement took longer than it may", hint="ask for less of it at once")
    if state[:2] in _HIDDEN and state != "28000":
        return ApiError(status, state, "the database could not do it; try again", headers=headers)
    diagnosis = error.diag
    message = diagnosis.message_primary or "the database refused it"
    hint = diagnosis.message_hint
    if state == "22007" and _LOST_PLUS.search(message):
        hint = "a + in a URL is a blank: write it as %2B, or the time in UTC with a Z"
    return ApiError(status, state, message, diagnosis.message_detail, hint, headers)
