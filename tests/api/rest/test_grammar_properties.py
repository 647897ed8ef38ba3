"""Whatever can be said is read as it was meant; whatever else is sent is refused in one way, in bounded time."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.api.rest.render import query_string

from flux.api.rest.errors import ApiError
from flux.api.rest.grammar import LONGEST, parse_query
from flux.api.rest.syntax import (
    QUANTIFIED,
    TEXT_SEARCH,
    Aggregate,
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

_RESERVED = {"select", "columns", "on_conflict", "order", "limit", "offset", "and", "or", "not", "inner", "left"}
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
names = st.one_of(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), texts.filter(lambda text: text != "")).filter(
    # (the words of the grammar are keys by their last part, quoted or not, as in PostgREST)
    lambda text: text not in _RESERVED and text.rpartition(".")[2] not in _RESERVED and text != "count"
)
casts = st.sampled_from(["text", "int4", "double precision"])
steps = st.builds(Step, st.one_of(st.integers(-9, 9), texts.filter(lambda text: text != "")), st.booleans())
fields = st.builds(Field, names, st.lists(steps, max_size=3).map(tuple))
columns = st.one_of(
    st.just(Column(Field("*"))),
    st.builds(Column, fields, st.none() | names, st.none() | casts),
    st.builds(Column, fields, st.none() | names, st.none() | casts, st.sampled_from(Aggregate), st.none() | casts),
)


def _embeds(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    select = st.lists(st.one_of(columns, inner), max_size=3).map(tuple)
    plain = st.builds(Embed, names, select, st.none() | names, st.none() | names, st.none() | st.sampled_from(Join))
    spread = st.builds(
        Embed, names, select, st.none(), st.none() | names, st.none() | st.sampled_from(Join), st.just(True)
    )
    return plain | spread


embeds = st.recursive(_embeds(st.nothing()), _embeds, max_leaves=4)
selects = st.lists(columns | embeds, max_size=4).map(tuple)


@st.composite
def filters(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Filter:
    operator = draw(st.sampled_from(Operator))
    field, negated = draw(fields), draw(st.booleans())
    if operator is Operator.IS:
        return Filter(field, operator, draw(st.sampled_from(Is)), negated)
    if operator is Operator.IN:
        return Filter(field, operator, tuple(draw(st.lists(texts, min_size=1, max_size=4))), negated)
    quantifier = draw(st.none() | st.sampled_from(Quantifier)) if operator in QUANTIFIED else None
    language = draw(st.none() | st.just("english")) if operator in TEXT_SEARCH else None
    return Filter(field, operator, draw(texts), negated, quantifier, language)


def _logics(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    return st.builds(
        Logic, st.sampled_from(Junction), st.lists(inner, min_size=1, max_size=3).map(tuple), st.booleans()
    )


conditions = st.recursive(filters(), _logics, max_leaves=6)
paths = st.lists(names, max_size=2).map(tuple)
orders = st.builds(Order, fields, st.none() | names, st.none() | st.booleans(), st.none() | st.sampled_from(Nulls))
numbers = st.lists(st.tuples(paths, st.integers(0, 10**6)), max_size=2, unique_by=lambda pair: pair[0]).map(tuple)
queries = st.builds(
    Query,
    select=selects,
    where=st.lists(st.tuples(paths, conditions), max_size=3).map(tuple),
    order=st.lists(
        st.tuples(paths, st.lists(orders, min_size=1, max_size=3).map(tuple)),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    limits=numbers,
    offsets=numbers,
    columns=st.none() | st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
    on_conflict=st.none() | st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
)


def refusal(text: str, *, function: bool = False) -> ApiError | None:
    """None: it was read."""
    try:
        parse_query(text.encode(), function=function)
    except ApiError as refused:
        return refused
    return None


@settings(max_examples=25, deadline=None)
@given(queries)
def test_what_is_written_is_read_back(query: Query) -> None:
    assert parse_query(query_string(query)) == query


_PIECES = r"""select= or= and= not. order= limit= a= eq. in. is. like(any). ( ) { } " \ , . : :: -> ->> ! * & = %
    %00 %ff + ... a 1 - é"""
_pieces = st.sampled_from(_PIECES.split())


@settings(max_examples=150, deadline=None)
@given(st.lists(_pieces, max_size=30).map("".join) | st.text(max_size=40), st.booleans())
@example('a=in.("', False)
@example("select=a->-", True)
def test_whatever_else_is_sent_is_refused_in_one_way(text: str, function: bool) -> None:
    refused = refusal(text, function=function)
    assert refused is None or refused.code in {"PGRST100", "PGRST103"}
    assert refused is None or refused.status in {400, 414, 416}


@pytest.mark.parametrize(
    "piece",
    ["a,", "a(", "(", '"', '"\\', '",', '\\"', "a->", "a.", "and(", "not.", "a:", "a-", " ", "{", "...a(", "a!b", "*,"],
)
@pytest.mark.parametrize("key", ["select=", "or=(", "order=", "a=in.(", "a=eq.", "", "columns="])
def test_the_longest_takes_no_longer_than_its_length(key: str, piece: str) -> None:
    """No text that is spoiled at its end makes the reader begin anew at every place."""
    text = key + piece * ((LONGEST - len(key)) // len(piece))
    begun = time.process_time()
    refused = refusal(text)
    assert refused is None or len(refused.body()) < 2000
    assert time.process_time() - begun < 2, "0.1 s would do; the square of the length takes minutes"


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(queries)
def test_what_is_written_is_read_back_at_length(query: Query) -> None:
    assert parse_query(query_string(query)) == query
