"""Request bodies of writes: whatever their type, one JSON text that the database reads, and the columns it names.

::

    [{"site": "WLCE", "name": "Wilton"}]           →  Rows(that text, columns ("site", "name"))
    site,name↵WLCE,Wilton                          →  the same
    [{…}, …] with ?columns=site                    →  the text unread, columns ("site",)

JSON is never taken apart and put together again here: what the client wrote is what PostgreSQL gets, digit for digit.
It is looked through once, for its keys, where the request does not name the columns.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from flux.api.rest.errors import ApiError

JSON = "application/json"
CSV = "text/csv"
FORM = "application/x-www-form-urlencoded"
_JSON_TYPES = {JSON, "application/vnd.pgrst.object+json", "application/vnd.pgrst.array+json"}
_MOST_FIELDS = 1000
"""Fields of a form, as many as a table could have columns at most."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a body. ``text``: a JSON array of objects, or one object where ``single``."""

    text: str
    columns: tuple[str, ...]
    single: bool = False

    @property
    def array(self) -> str:
        """The text as an array."""
        return f"[{self.text}]" if self.single else self.text


def media_type(content_type: str | None) -> str:
    """Without its parameters; JSON where there is none.

    ApiError 415 for a type that is never read.
    """
    essence = (content_type or JSON).partition(";")[0].strip().lower() or JSON
    return JSON if essence in _JSON_TYPES or essence == "*/*" else essence


def read_rows(content_type: str | None, body: bytes, columns: Sequence[str] | None) -> Rows:
    """The rows that a body holds; ``columns``: those that the request names, the others of the body are passed over.

    ApiError 400 (PGRST102) for what is no JSON object, array of objects with the same keys, or table; 415 for another
    type of body.
    """
    kind = media_type(content_type)
    text = _decoded(body)
    if kind == JSON:
        return _rows_of_json(text, columns)
    if kind == CSV:
        return _rows_of_csv(text, columns)
    if kind == FORM:
        fields = _form(text)
        return Rows(json.dumps(fields), tuple(columns or fields), single=True)
    raise _not_taken(kind)


def read_object(content_type: str | None, body: bytes) -> tuple[str, tuple[str, ...]]:
    """The arguments of a function: a JSON object as it was sent, and its keys. An empty body has none."""
    kind = media_type(content_type)
    text = _decoded(body)
    if kind == FORM:
        fields = _form(text)
        return json.dumps(fields), tuple(fields)
    if kind != JSON:
        raise _not_taken(kind)
    if not text.strip():
        return "{}", ()
    value = _parsed(text)
    # (anything else is for a function with one unnamed argument, which takes the text as it is)
    return text, tuple(value) if isinstance(value, dict) else ()


def _rows_of_json(text: str, columns: Sequence[str] | None) -> Rows:
    start = text.lstrip(" \t\r\n")[:1]
    if columns is not None and start in {"{", "["}:
        return Rows(text, tuple(columns), single=start == "{")
    value = _parsed(text)
    if isinstance(value, dict):
        return Rows(text, tuple(value), single=True)
    if not isinstance(value, list) or not value:
        return Rows("[]", ())
    if not isinstance(value[0], dict):
        raise ApiError(400, "PGRST102", "All object keys must match")
    first = value[0].keys()
    if not all(isinstance(row, dict) and row.keys() == first for row in value):
        raise ApiError(400, "PGRST102", "All object keys must match")
    return Rows(text, tuple(first))


def _parsed(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        raise ApiError(400, "PGRST102", "Empty or invalid json") from None


def _rows_of_csv(text: str, columns: Sequence[str] | None) -> Rows:
    """Text of ``NULL`` is null, as PostgREST has it."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise ApiError(400, "PGRST102", f"not a table of comma-separated values: {error}") from None
    if not header:
        raise ApiError(400, "PGRST102", "not a table of comma-separated values: its first line names the columns")
    if len(set(header)) < len(header):
        raise ApiError(400, "PGRST102", "the first line names a column twice")
    if any(len(line) != len(header) for line in lines):
        raise ApiError(400, "PGRST102", "All lines must have same number of fields")
    rows = [dict(zip(header, [None if value == "NULL" else value for value in line], strict=True)) for line in lines]
    return Rows(json.dumps(rows, ensure_ascii=False), tuple(header if columns is None else columns))


def _form(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError:
        raise ApiError(400, "PGRST102", "not a form that can be read") from None


def _decoded(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "PGRST102", "the body is not UTF-8") from None
    if "\0" in text:
        raise ApiError(400, "PGRST102", "the body has a NUL in it")
    return text.removeprefix("\ufeff")


def _not_taken(kind: str) -> ApiError:
    return ApiError(415, "PGRST102", f"Content-Type not acceptable: {kind}")
