"""A call of ``/rpc/…``: its arguments as one JSON object, and the call as SQL. Pure.

::

    GET  /rpc/get_meter_readings_1h?device_ids={…}   →  {"device_ids": "{…}"}
    POST /rpc/get_meter_readings_1h  {"device_ids": […]}

    FROM json_to_record($1::json) AS given(device_ids uuid[]),
         LATERAL flux_api.get_meter_readings_1h(device_ids => given.device_ids) AS t0

As with rows, PostgreSQL reads each argument by its own type: an array may be JSON's or PostgreSQL's.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from flux.api.rest.errors import ApiError
from flux.api.rest.functions import SCHEMA, Argument, Function
from flux.api.rest.sqltext import Fragment, joined, name, qualified, sql
from flux.api.rest.write_sql import type_of


def arguments_of_query(function: Function, given: Sequence[tuple[str, str]]) -> str:
    """The arguments of a GET as a JSON object. Of one that is given twice the last counts; a variadic takes all."""
    arguments = {argument.name: argument for argument in function.arguments}
    values: dict[str, Any] = {}
    for key, text in given:
        argument = arguments[key]
        if argument.variadic:
            values.setdefault(key, []).append(text)
        else:
            values[key] = _value(argument, text)
    return json.dumps(values)


def _value(argument: Argument, text: str) -> Any:
    """JSON where the type wants JSON and the text is some; otherwise the text, which PostgreSQL reads."""
    is_json = argument.type in {"json", "jsonb"}
    if not is_json and not (argument.type.endswith("[]") and text.lstrip().startswith("[")):
        return text
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        if is_json:
            raise ApiError(400, "22P02", f"invalid input syntax for type json: {argument.name}") from None
        return text


def call(function: Function, given: Sequence[str], arguments: Fragment) -> Fragment:
    """What stands in FROM, up to and without the alias of the rows; a plain value is a row of one column ``value``.

    ``arguments``: the placeholder of a JSON object, or of the body where the function takes that.
    """
    target = qualified(SCHEMA, function.name)
    source = sql("")
    if function.takes_body:
        called = sql("{}({}::{})", target, arguments, type_of(function.arguments[0].type))
    else:
        passed = [argument for argument in function.arguments if argument.name in given]
        called = sql("{}({})", target, joined(", ", map(_passed, passed)))
        if passed:
            types = joined(", ", (sql("{} {}", name(a.name), type_of(a.type)) for a in passed))
            source = sql("json_to_record({}::json) AS given({}), ", arguments, types)
    if not function.columns:
        called = sql("(SELECT {} AS value)", called)
    return sql("{}LATERAL {}", source, called)


def _passed(argument: Argument) -> Fragment:
    variadic = sql("VARIADIC ") if argument.variadic else sql("")
    return sql("{0}{1} => given.{1}", variadic, name(argument.name))
