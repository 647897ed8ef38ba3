"""Bodies of writes: one JSON text for the database, and the columns that it names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.api.rest.bodies import Rows, read_object, read_rows
from flux.api.rest.errors import ApiError


def test_json_is_passed_on_as_it_was_written() -> None:
    text = '[{"a":1.10000000000000000001,"b":"ü"},{"b":1,"a":2e400}]'
    assert read_rows("application/json; charset=utf-8", text.encode(), None) == Rows(text, ("a", "b"))


def test_one_object_is_one_row() -> None:
    rows = read_rows(None, b' {"a": 1}', None)
    assert (rows.single, rows.columns, json.loads(rows.array)) == (True, ("a",), [{"a": 1}])


def test_named_columns_save_looking_through_the_body() -> None:
    assert read_rows(None, b'[{"a":1},{"b":2}]', ["a", "b"]) == Rows('[{"a":1},{"b":2}]', ("a", "b"))


def test_csv_is_the_same_rows_with_null_for_null() -> None:
    rows = read_rows("text/csv", 'a,b\r\n1,"x,\ny"\r\nNULL,ü\r\n'.encode(), None)
    assert rows.columns == ("a", "b")
    assert json.loads(rows.text) == [{"a": "1", "b": "x,\ny"}, {"a": None, "b": "ü"}]


def test_a_form_is_one_row_of_text() -> None:
    rows = read_rows("application/x-www-form-urlencoded", b"a=1&b=x%20y&c=", None)
    assert (json.loads(rows.text), rows.columns, rows.single) == (
        {"a": "1", "b": "x y", "c": ""},
        ("a", "b", "c"),
        True,
    )


@pytest.mark.parametrize(
    ("type_", "body", "status", "message"),
    [
        ("application/json", b"", 400, "Empty or invalid json"),
        ("application/json", b'[{"a":NaN}]', 400, "Empty or invalid json"),
        ("application/json", b"[" * 100_000, 400, "Empty or invalid json"),
        ("application/json", b'[{"a":1},{"b":1}]', 400, "All object keys must match"),
        ("application/json", b'[{"a":1},2]', 400, "All object keys must match"),
        ("application/json", b"[[1]]", 400, "All object keys must match"),
        ("application/json", b'{"a":"\xff"}', 400, "the body is not UTF-8"),
        ("application/json", b'{"a":"\0"}', 400, "the body has a NUL in it"),
        ("text/csv", b"a,b\n1", 400, "All lines must have same number of fields"),
        ("text/csv", b"a,a\n1,2", 400, "the first line names a column twice"),
        ("text/csv", b"", 400, "its first line names the columns"),
        ("text/csv", b'a,"b\n1', 400, "not a table"),
        ("application/x-www-form-urlencoded", b"b=%ff", 400, "not a form"),
        ("application/xml", b"<a/>", 415, "Content-Type not acceptable: application/xml"),
    ],
)
def test_what_cannot_be_read_is_told(type_: str, body: bytes, status: int, message: str) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        read_rows(type_, body, None)
    assert (refused.value.status, refused.value.code) == (status, "PGRST102")


def test_the_arguments_of_a_function_are_an_object_or_nothing() -> None:
    assert read_object(None, b"") == ("{}", ())
    assert read_object("application/json", b'{"device_ids": ["a"]}') == ('{"device_ids": ["a"]}', ("device_ids",))
    assert read_object("application/x-www-form-urlencoded", b"x=1") == ('{"x": "1"}', ("x",))
    assert read_object("application/json", b"[1]") == ("[1]", ())


@given(st.binary(max_size=60), st.sampled_from(["application/json", "text/csv", "application/x-www-form-urlencoded"]))
def test_whatever_the_bytes_there_are_rows_or_a_refusal(body: bytes, type_: str) -> None:
    try:
        rows = read_rows(type_, body, None)
    except ApiError as refused:
        if refused.status != 400:
            raise
    else:
        found = json.loads(rows.array)
        assert all(set(row) == set(rows.columns) for row in found)
