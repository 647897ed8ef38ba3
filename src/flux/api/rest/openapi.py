"""The description at ``/rest/v1/``: Swagger 2.0 in the shape of PostgREST's, which its clients and generators read.

It holds what the caller's role may do and nothing else: a reader's has no POST. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flux
from flux.api.identity import Role
from flux.api.rest.catalogue import ColumnInfo, Table, Verb
from flux.api.rest.functions import Argument, Function

MEDIA_TYPE = "application/openapi+json"
BASE_PATH = "/rest/v1"
_INTEGERS = {"smallint", "integer", "bigint"}
_NUMBERS = {"real", "double precision", "numeric"}
_ANSWERS = ["application/json", "application/vnd.pgrst.object+json;nulls=stripped", "application/vnd.pgrst.object+json",
            "text/csv"]  # fmt: skip
_BODIES = ["application/json", "text/csv", "application/x-www-form-urlencoded"]
_FILTER = r"^(not\.)?(eq|neq|gte?|lte?|i?like|i?match|in|is|isdistinct|cs|cd|ov|sl|sr|nxr|nxl|adj|(pl|ph|w)?fts)[.(]"
"""How the value of a filter begins."""
_ERRORS = {
    "300": "several functions fit the arguments",
    "400": "the request is wrong: `code`, `message`, `details` and `hint` say how",
    "401": "no key, or one that does not hold",
    "403": "the key may not do this",
    "404": "no such table or function",
    "405": "not by this method; of a PUT: its filters are not exactly the primary key",
    "406": "no such form of answer, or not exactly one row",
    "409": "the row is there already, or what it refers to is not",
    "413": "the body is too large",
    "415": "no such form of body",
    "416": "the range begins behind the last row",
    "429": "too many requests: try again after `Retry-After` seconds",
    "503": "the database does not answer",
    "504": "the statement took longer than it may",
}


def describe(tables: Iterable[Table], functions: Iterable[Function], role: Role) -> dict[str, Any]:
    """The whole description, but for the host: that is as the client called it."""
    seen = [table for table in tables if table.rights.get(role)]
    called = [function for function in functions if role.database_role in function.roles]
    paths: dict[str, Any] = {"/": {"get": _root()}}
    paths |= {f"/{table.name}": _table(table, table.rights[role]) for table in seen}
    paths |= _calls(called)
    return {
        "swagger": "2.0",
        "info": {
            "title": "Flux",
            "description": "The tables and functions of Flux in PostgREST's grammar. Times are UTC, power is in kW, "
            "energy in kWh, prices in £/MWh.",
            "version": flux.__version__,
        },
        "basePath": BASE_PATH,
        "consumes": _BODIES,
        "produces": _ANSWERS,
        "securityDefinitions": {
            "apikey": {"type": "apiKey", "in": "header", "name": "apikey", "description": "a key of `flux keys`"},
            "JWT": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Bearer ` and the key"},
        },
        "security": [{"apikey": []}, {"JWT": []}],
        "paths": paths,
        "definitions": {"error": _error()} | {table.name: _definition(table) for table in seen},
        "parameters": _common_parameters() | _table_parameters(seen),
    }


def _root() -> dict[str, Any]:
    return {
        "tags": ["Introspection"],
        "summary": "this description",
        "produces": [MEDIA_TYPE, "application/json"],
        "responses": {"200": {"description": "OK"}} | _errors("401", "406", "429"),
    }


def _table(table: Table, rights: frozenset[Verb]) -> dict[str, Any]:
    """The verbs of one table."""
    filters = [_reference(f"rowFilter.{table.name}.{column}") for column in table.columns]
    rows = {"type": "array", "items": {"$ref": f"#/definitions/{table.name}"}}
    body = _reference(f"body.{table.name}")
    described = dict(zip(("summary", "description"), (table.comment or table.name).split("\n", 1), strict=False))
    common = {"tags": [table.name], **described}
    path: dict[str, Any] = {}
    if Verb.SELECT in rights:
        paging = _references("select", "order", "range", "rangeUnit", "offset", "limit", "preferCount")
        path["get"] = common | {
            "parameters": filters + paging,
            "responses": {
                "200": {"description": "OK", "schema": rows},
                "206": {"description": "Partial Content", "schema": rows},
            }
            | _errors("400", "401", "403", "404", "406", "416", "429", "503", "504"),
        }
    writing = _errors("400", "401", "403", "404", "405", "406", "409", "413", "415", "429", "503", "504")
    done = {"200": {"description": "OK", "schema": rows}, "204": {"description": "No Content"}}
    if Verb.INSERT in rights:
        path["post"] = common | {
            "parameters": [body, *_references("select", "columns", "on_conflict", "preferPost")],
            "responses": {"200": {"description": "OK"}, "201": {"description": "Created"}} | writing,
        }
    if Verb.UPDATE in rights:
        path["patch"] = common | {
            "parameters": [*filters, body, *_references("select", "columns", "preferReturn")],
            "responses": done | writing,
        }
    if {Verb.INSERT, Verb.UPDATE} <= rights and table.primary_key:
        key = [_key_filter(table.columns[column]) for column in table.primary_key]
        path["put"] = common | {
            "parameters": [*key, body, *_references("select", "preferReturn")],
            "responses": {**done, "201": {"description": "Created"}} | writing,
        }
    if Verb.DELETE in rights:
        path["delete"] = common | {
            "parameters": [*filters, *_references("select", "preferReturn")],
            "responses": done | writing,
        }
    return path


def _key_filter(column: ColumnInfo) -> dict[str, Any]:
    """What names the row of a PUT."""
    return _filter(column) | {"required": True, "pattern": r"^eq\."}


def _filter(column: ColumnInfo) -> dict[str, Any]:
    return {
        "name": column.name,
        "in": "query",
        "description": f"a filter, such as `eq.…`: {column.comment or column.type}",
        "required": False,
        "type": "string",
        "format": column.type,
        "pattern": _FILTER,
    }


def _definition(table: Table) -> dict[str, Any]:
    """The rows of a table; what must not be null is required."""
    links = {foreign.columns[0]: foreign for foreign in table.foreign_keys if len(foreign.columns) == 1}
    properties = {}
    for column in table.columns.values():
        notes = [column.comment] if column.comment else []
        if column.name in table.primary_key:
            notes.append("Note:\nThis is a Primary Key.<pk/>")
        if link := links.get(column.name):
            notes.append(
                f"Note:\nThis is a Foreign Key to `{link.target}.{link.target_columns[0]}`."
                f"<fk table='{link.target}' column='{link.target_columns[0]}'/>"
            )
        properties[column.name] = _property(column, notes)
    required = [column.name for column in table.columns.values() if not column.nullable]
    return {
        **({"description": table.comment} if table.comment else {}),
        "type": "object",
        **({"required": required} if required else {}),
        "properties": properties,
    }


def _property(column: ColumnInfo, notes: list[str]) -> dict[str, Any]:
    return {
        **_type(column.type),
        **({"default": column.default} if column.default is not None else {}),
        **({"description": "\n\n".join(notes)} if notes else {}),
        **({"x-nullable": True} if column.nullable else {}),
        **({"readOnly": True} if column.generated else {}),
    }


def _type(type_: str) -> dict[str, Any]:
    """A type of PostgreSQL as JSON has it; ``format`` keeps its own name. JSON itself is of any type."""
    if type_.endswith("[]"):
        return {"format": type_, "type": "array", "items": {k: v for k, v in _type(type_[:-2]).items() if k == "type"}}
    base = type_.partition("(")[0]
    if base in {"json", "jsonb"}:
        return {"format": type_}
    if base in _INTEGERS:
        kind = "integer"
    elif base in _NUMBERS:
        kind = "number"
    else:
        kind = "boolean" if base == "boolean" else "string"
    return {"format": type_, "type": kind}


def _calls(functions: Iterable[Function]) -> dict[str, Any]:
    """Of functions that share a name the first is described."""
    paths: dict[str, Any] = {}
    for function in functions:
        if f"/rpc/{function.name}" not in paths:
            paths[f"/rpc/{function.name}"] = _call(function)
    return paths


def _call(function: Function) -> dict[str, Any]:
    errors = _errors("300", "400", "401", "403", "404", "405", "406", "413", "415", "416", "429", "503", "504")
    answer = {"204": {"description": "No Content"}} if function.is_void else {"200": {"description": "OK"}}
    common = {
        "tags": [f"(rpc) {function.name}"],
        "summary": (function.comment or function.name).split("\n", 1)[0],
        "produces": _ANSWERS,
        "responses": answer | errors,
    }
    named = [argument for argument in function.arguments if argument.name]
    required = [argument.name for argument in named if argument.required]
    arguments: dict[str, Any] = {
        "type": "object",
        "properties": {argument.name: _type(argument.type) for argument in named},
        **({"required": required} if required else {}),
    }
    body = {"name": "args", "in": "body", "required": True, "schema": arguments}
    path: dict[str, Any] = {
        "post": common | {"consumes": ["application/json"], "parameters": [body, _reference("preferCount")]}
    }
    if function.reads_only:
        path["get"] = common | {"parameters": [_argument(argument) for argument in named]}
    return path


def _argument(argument: Argument) -> dict[str, Any]:
    kind = _type(argument.type)
    text: Mapping[str, Any] = {"type": "string"} if kind.get("type") in {None, "array"} else {"type": kind["type"]}
    return {"name": argument.name, "in": "query", "required": argument.required, "format": argument.type, **text}


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["code", "message", "details", "hint"],
        "properties": {
            "code": text,
            "message": text,
            "details": {"x-nullable": True},
            "hint": {**text, "x-nullable": True},
        },
    }


def _errors(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/definitions/error"}
    return {status: {"description": _ERRORS[status], "schema": schema} for status in statuses}


def _common_parameters() -> dict[str, Any]:
    def of(name: str, place: str, description: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "in": place, "description": description, "required": False, "type": "string", **more}

    returning = ["return=representation", "return=minimal", "return=headers-only"]
    counted = ["count=exact", "count=planned", "count=estimated"]
    return {
        "preferReturn": of("Prefer", "header", "what comes back", enum=returning),
        "preferCount": of("Prefer", "header", "how rows are counted", enum=counted),
        "preferPost": of(
            "Prefer", "header", "what comes back, and what becomes of rows that are there",
            enum=[*returning, "resolution=ignore-duplicates", "resolution=merge-duplicates", "missing=default"],
        ),
        "select": of("select", "query", "columns and embedded resources, such as `id,name`", minLength=1),
        "columns": of("columns", "query", "the columns that are taken from the body", minLength=1),
        "order": of("order", "query", "such as `time.desc`"),
        "on_conflict": of("on_conflict", "query", "the columns of a unique key, for an upsert", minLength=1),
        "range": of("Range", "header", "such as `0-24`", pattern="^[0-9]+-[0-9]*$"),
        "rangeUnit": of("Range-Unit", "header", "the unit of `Range`", default="items"),
        "offset": of("offset", "query", "rows to pass over", type="integer", minimum=0),
        "limit": of("limit", "query", "the most rows", type="integer", minimum=0),
    }  # fmt: skip


def _table_parameters(tables: Iterable[Table]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for table in tables:
        parameters[f"body.{table.name}"] = {
            "name": table.name,
            "in": "body",
            "description": table.comment or table.name,
            "required": False,
            "schema": {"$ref": f"#/definitions/{table.name}"},
        }
        for column in table.columns.values():
            parameters[f"rowFilter.{table.name}.{column.name}"] = _filter(column)
    return parameters


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/parameters/{name}"}


def _references(*names: str) -> list[dict[str, str]]:
    return [_reference(name) for name in names]
