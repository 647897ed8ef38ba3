"""Calls of functions: which one is meant, and its arguments as JSON."""

import json

import pytest

from flux.api.rest.calls import arguments_of_query, call
from flux.api.rest.errors import ApiError
from flux.api.rest.functions import Argument, Function, find_function
from flux.api.rest.sqltext import Fragment


def function(
    name: str, *arguments: Argument, columns: tuple[tuple[str, str], ...] = (), returns_set: bool = False
) -> Function:
    return Function(name, arguments, "integer", returns_set, columns, None, "s", None, frozenset())


BUCKETS = function(
    "buckets",
    Argument("start_time", "timestamp with time zone", False),
    Argument("ids", "uuid[]", False),
    columns=(("time_b", "timestamp with time zone"),),
    returns_set=True,
)
ADD = function("add", Argument("a", "integer", True), Argument("b", "integer", False))
ADD_TEXT = function("add", Argument("a", "text", True))
ECHO = function("echo", Argument("", "json", True))
EVERY = (BUCKETS, ADD, ADD_TEXT, ECHO)


def test_arguments_with_defaults_may_be_left_out() -> None:
    assert find_function(EVERY, "buckets", [], body=False) is BUCKETS
    assert find_function(EVERY, "add", ["a", "b"], body=True) is ADD


def test_a_body_goes_whole_to_a_function_of_one_unnamed_argument() -> None:
    assert find_function(EVERY, "echo", ["anything"], body=True) is ECHO
    with pytest.raises(ApiError):
        find_function(EVERY, "echo", ["anything"], body=False)


@pytest.mark.parametrize(
    ("name", "given", "status", "code", "hint"),
    [
        ("add", ["a"], 300, "PGRST203", "Try renaming"),
        ("add", ["b"], 404, "PGRST202", "flux.add(a, b) or flux.add(a)"),
        ("bucket", [], 404, "PGRST202", "flux.buckets"),
        ("nothing_like_it", [], 404, "PGRST202", None),
        ("buckets", ["ids", "more"], 404, "PGRST202", "flux.buckets(start_time, ids)"),
    ],
)
def test_a_call_that_means_none_or_several(
    name: str, given: list[str], status: int, code: str, hint: str | None
) -> None:
    with pytest.raises(ApiError) as refused:
        find_function(EVERY, name, given, body=True)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert (hint in (refused.value.hint or "")) if hint else refused.value.hint is None


def test_an_array_of_a_query_is_jsons_or_postgresqls() -> None:
    assert json.loads(arguments_of_query(BUCKETS, [("ids", "{a,b}")])) == {"ids": "{a,b}"}
    assert json.loads(arguments_of_query(BUCKETS, [("ids", '["a"]')])) == {"ids": ["a"]}
    assert json.loads(arguments_of_query(BUCKETS, [("ids", "[0:1]={a,b}")])) == {"ids": "[0:1]={a,b}"}
    assert json.loads(arguments_of_query(ADD, [("a", "1"), ("a", "2")])) == {"a": "2"}


def test_the_call_names_every_argument_and_binds_them_as_one_value() -> None:
    assert call(BUCKETS, ["ids"], Fragment("$1")) == (
        'json_to_record($1::json) AS given("ids" uuid[]), LATERAL "flux_api"."buckets"("ids" => given."ids")'
    )
    assert call(ADD, ["a"], Fragment("$1")) == (
        'json_to_record($1::json) AS given("a" integer), LATERAL (SELECT "flux_api"."add"("a" => given."a") AS value)'
    )
    assert call(BUCKETS, [], Fragment("$1")) == 'LATERAL "flux_api"."buckets"()'
    assert call(ECHO, [], Fragment("$1")) == 'LATERAL (SELECT "flux_api"."echo"($1::json) AS value)'
