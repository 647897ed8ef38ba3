"""The grammar by example; test_grammar_properties.py has the same for whatever can be written."""

import pytest

from flux.api.rest.errors import ApiError
from flux.api.rest.grammar import parse_query
from flux.api.rest.syntax import (
    Column,
    Condition,
    Embed,
    Field,
    Filter,
    Is,
    Join,
    Junction,
    Logic,
    Nulls,
    Operator,
    Order,
    Quantifier,
    Query,
    Step,
)


def condition(text: str) -> Condition:
    ((path, found),) = parse_query(text.encode()).where
    assert path == ()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", (Column(Field("*")),)),
        ("id,name", (Column(Field("id")), Column(Field("name")))),
        ("label:name", (Column(Field("name"), alias="label"),)),
        ("soe::text", (Column(Field("soe"), cast="text"),)),
        ('"a,b":"c.d"', (Column(Field("c.d"), alias="a,b"),)),
        (
            "model:metadata->gear->>model::text",
            (Column(Field("metadata", (Step("gear"), Step("model", as_text=True))), "model", "text"),),
        ),
        ("tags->0->>-1", (Column(Field("tags", (Step(0), Step(-1, as_text=True)))),)),
        ("sites(name)", (Embed("sites", (Column(Field("name")),)),)),
        (
            "where:sites!a_key!inner(name),...groups!left(*)",
            (
                Embed("sites", (Column(Field("name")),), "where", "a_key", Join.INNER),
                Embed("groups", (Column(Field("*")),), join=Join.LEFT, spread=True),
            ),
        ),
        ("sites()", (Embed("sites", ()),)),
        ("", ()),
    ],
)
def test_select(text: str, expected: object) -> None:
    assert parse_query(f"select={text}".encode()).select == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("site=eq.WLCE", Filter(Field("site"), Operator.EQ, "WLCE")),
        ("name=not.like.*METER", Filter(Field("name"), Operator.LIKE, "*METER", negated=True)),
        ("name=eq.a%2Cb.c+d", Filter(Field("name"), Operator.EQ, "a,b.c d")),
        ("name=in.(a,%22b,%5C%22c%22,)", Filter(Field("name"), Operator.IN, ("a", 'b,"c', ""))),
        ("name=is.NULL", Filter(Field("name"), Operator.IS, Is.NULL)),
        (
            "metadata->>maintenance=not.is.null",
            Filter(Field("metadata", (Step("maintenance", True),)), Operator.IS, Is.NULL, True),
        ),
        ("name=like(any).{W*,H*}", Filter(Field("name"), Operator.LIKE, "{W*,H*}", quantifier=Quantifier.ANY)),
        ("name=plfts(english).grid", Filter(Field("name"), Operator.PLFTS, "grid", language="english")),
        (
            'or=(site.eq.WLCE,not.and(a.gt."1,2",b.in.(3,4)),c.cs.{5,6})',
            Logic(
                Junction.OR,
                (
                    Filter(Field("site"), Operator.EQ, "WLCE"),
                    Logic(
                        Junction.AND,
                        (Filter(Field("a"), Operator.GT, "1,2"), Filter(Field("b"), Operator.IN, ("3", "4"))),
                        negated=True,
                    ),
                    Filter(Field("c"), Operator.CS, "{5,6}"),
                ),
            ),
        ),
        ("not.or=(a.is.null)", Logic(Junction.OR, (Filter(Field("a"), Operator.IS, Is.NULL),), negated=True)),
    ],
)
def test_conditions(text: str, expected: Condition) -> None:
    assert condition(text) == expected


def test_what_is_said_of_embedded_resources() -> None:
    query = parse_query(b"a.b.c=gt.1&a.or=(d.is.true)&a.order=e.desc.nullslast,f&a.limit=3&a.b.offset=4&order=r(g).asc")
    assert query == Query(
        where=(
            (("a", "b"), Filter(Field("c"), Operator.GT, "1")),
            (("a",), Logic(Junction.OR, (Filter(Field("d"), Operator.IS, Is.TRUE),))),
        ),
        order=(
            (("a",), (Order(Field("e"), None, True, Nulls.LAST), Order(Field("f")))),
            ((), (Order(Field("g"), "r", False),)),
        ),
        limits=((("a",), 3),),
        offsets=((("a", "b"), 4),),
    )


def test_repeated_keys_as_postgrest_has_them() -> None:
    query = parse_query(b"a=gt.1&a=lt.9&select=a&select=b&order=a&order=b&limit=1&limit=2&flag")
    assert [found.value for _, found in query.where if isinstance(found, Filter)] == ["1", "9"]
    assert query.select == (Column(Field("a")),)
    assert query.order == (((), (Order(Field("a")),)),)
    assert query.limit() == 2


def test_a_function_takes_what_is_no_filter_as_arguments() -> None:
    query = parse_query(b"start_time=2026-01-15&device_ids={}&samples=gt.0", function=True)
    assert query.arguments == (("start_time", "2026-01-15"), ("device_ids", "{}"))
    assert query.of_root() == (Filter(Field("samples"), Operator.GT, "0"),)


@pytest.mark.parametrize(
    ("text", "column", "found"),
    [
        ("select=id(", 4, "end of input"),
        ("select=a,", 3, "end of input"),
        ("select=a::", 4, "end of input"),
        ("select=a->", 4, "end of input"),
        ("select=*!x", 1, '"*"'),
        ("a=noop.1", 1, '"n"'),
        ("a=1", 1, '"1"'),
        ("a=in.1,2", 4, '"1"'),
        ("a=in.(1,2)x", 9, '"x"'),
        ("a=is.nil", 4, '"n"'),
        ("a=neq(any).{1}", 4, '"("'),
        ("or=()", 2, '")"'),
        ("or=(a.eq.1", 8, "end of input"),
        ("and=(a)", 3, '")"'),
        ("order=a.up", 2, '"."'),
        ("order=", 1, "end of input"),
        ("limit=many", 1, '"m"'),
        ("a..b=eq.1", 3, '"."'),
    ],
)
def test_what_the_grammar_does_not_know(text: str, column: int, found: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_query(text.encode())
    assert (refused.value.status, refused.value.code) == (400, "PGRST100")
    assert refused.value.message.endswith(f"(line 1, column {column})")
    assert str(refused.value.details).startswith(f"unexpected {found} expecting ")


@pytest.mark.parametrize("text", ["limit=-1", "offset=-1", "sites.limit=-5"])
def test_a_range_below_zero(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_query(text.encode())
    assert (refused.value.status, refused.value.code) == (416, "PGRST103")


@pytest.mark.parametrize("text", [b"a=eq.%00", b"a=eq.%ff", b"a=eq.\xff", b"a=eq." + b"1" * 70_000, b"a=eq.1&" * 600])
def test_what_no_database_could_hold(text: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_query(text)
    assert refused.value.code == "PGRST100"


@pytest.mark.parametrize("text", [b"select=" + b"a(" * 5000, b"or=" + b"(and" * 5000, b"or=" + b"(not.or" * 9000])
def test_depth_is_bounded(text: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_query(text)
    assert refused.value.code == "PGRST100"
    assert "inside one another" in str(refused.value.details)
