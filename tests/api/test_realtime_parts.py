"""The parts of realtime that need no server: frames, cursors, filters."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, sql
from tests.support import NOON, add_device, fetch

from flux.api.realtime.cursor import Cursor, includes, parse_cursor
from flux.api.realtime.filters import Filter, parse_filter, read_condition
from flux.api.realtime.join import read_join
from flux.api.realtime.log import Change, Entry, Operation, Page, changes_of
from flux.api.realtime.protocol import Address, Version, decode
from flux.api.realtime.reach import reach_of
from flux.errors import InputError
from flux.store.db import open_pool

TEXT = st.text(max_size=20)
OPERATIONS: st.SearchStrategy[Operation] = st.sampled_from(["INSERT", "UPDATE", "DELETE"])


@given(TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, st.sampled_from(Version))
def test_a_frame_is_read_as_it_was_written(
    topic: str, event: str, ref: str | None, join_ref: str | None, version: Version
) -> None:
    written = {"topic": topic, "event": event, "payload": {"a": 1}, "ref": ref, "join_ref": join_ref}
    arrays = [join_ref, ref, topic, event, {"a": 1}]
    frame = decode(version, json.dumps(arrays if version is Version.ARRAYS else written))
    assert (frame.topic, frame.event, frame.ref, frame.join_ref) == (topic, event, ref, join_ref)
    answer = json.loads(Address(version, topic, join_ref).reply(ref, "ok", {}))
    assert (answer[:3] if version is Version.ARRAYS else [answer[k] for k in ("join_ref", "ref", "topic")]) == [
        join_ref,
        ref,
        topic,
    ]


@given(st.binary(max_size=40) | TEXT, st.sampled_from(Version))
def test_nothing_that_comes_in_is_more_than_wrong(data: str | bytes, version: Version) -> None:
    with suppress(InputError):
        decode(version, data)


@st.composite
def snapshots(draw: st.DrawFn) -> str:
    low = draw(st.integers(1, 40))
    high = draw(st.integers(low, low + 12))
    running = sorted(draw(st.sets(st.integers(low, high - 1)))) if high > low else []
    return f"{running[0] if running else high}:{high}:{','.join(map(str, running))}"


@given(snapshots(), snapshots(), st.integers(0, 10**17), st.integers(0, 10**8))
def test_a_cursor_is_read_as_it_was_written(since: str, until: str, entry: int, row: int) -> None:
    for cursor in (Cursor("0a1b2c3d", since), Cursor("0a1b2c3d", since, until, entry, row)):
        assert parse_cursor(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    ["", "now", "0a1b2c3d", "0a1b2c3d/5:4:", "0a1b2c3d/1:9:9", "0a1b2c3d/0:9:", "0a1b2c3d/1:9:3,2", "a" * 40_000],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InputError, match="none that this server gave out"):
        parse_cursor(text)


def seen(snapshot: str) -> set[int]:
    _, high, running = snapshot.split(":")
    return set(range(1, int(high))) - {int(one) for one in running.split(",") if one}


@given(snapshots(), snapshots())
def test_which_snapshot_sees_what_another_one_saw(newer: str, older: str) -> None:
    assert includes(newer, older) == (seen(newer) >= seen(older))


OPERATORS = ("eq", "neq", "lt", "lte", "gt", "gte", "isdistinct", "like", "ilike")
SQL_OF = dict(zip(OPERATORS, ("=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "LIKE", "ILIKE"), strict=True))
WORDS = st.text(alphabet="aAb%_1", max_size=4)


@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.booleans(), WORDS), min_size=1, max_size=4))
@settings(max_examples=60)
def test_a_filter_is_read_as_it_was_written(conditions: list[tuple[str, bool, str]]) -> None:
    text = ",".join(f'name={"not." if negated else ""}{op}."{word}"' for op, negated, word in conditions)
    assert [(c.operator, c.negated, c.values[0]) for c in parse_filter(text)] == conditions


async def test_filters_hold_for_what_they_hold_for_in_sql(db: AsyncConnection[Any]) -> None:
    values: dict[str, list[Any]] = {
        "text": ["a", "A", "ab", "b%", "", "1", None],
        "int8": ["1", "-7", "10", None],
        "float4": ["0.1", "1", "-2.5", None],
        "timestamptz": ["2026-01-15 12:00+00", "2026-01-15 13:00+01", "2026-01-16 00:00+00", None],
        "bool": ["true", "false", None],
    }
    for kind, given_values in values.items():
        for op, operator in SQL_OF.items():
            if (op in ("like", "ilike") and kind != "text") or (kind == "bool" and op in ("lt", "lte", "gt", "gte")):
                continue
            # (texts are in the order of the database's collation there, and of code points here)
            as_sql = sql.SQL("(v::{0} {2} {1} o::{0})").format(
                sql.SQL(kind), sql.SQL(operator), sql.SQL('COLLATE "C"' if kind == "text" and op[0] in "lg" else "")
            )
            rows = await fetch(
                db,
                sql.SQL("SELECT v::{0}, o, o::{0}, {1}, NOT {1} FROM unnest(%s::text[]) v, unnest(%s::text[]) o")
                .format(sql.SQL(kind), as_sql)
                .as_string(db),
                (given_values, [value for value in given_values if value is not None]),
            )
            for value, written, operand, holds, not_holds in rows:
                for prefix, expected in (("", holds), ("not.", not_holds)):
                    (condition,) = parse_filter(f'c={prefix}{op}."{written}"')
                    read = read_condition(condition, [operand] if condition.typed else condition.values)
                    found = Filter((read,)).holds({"c": value})
                    assert found is (expected is True), (kind, prefix, op, value, written)


def likes(pattern: str, text: str) -> bool:
    """What LIKE means, word for word."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return likes(pattern[1:], text) or bool(text and likes(pattern, text[1:]))
    return bool(text) and pattern[0] in ("_", text[0]) and likes(pattern[1:], text[1:])


def holds_like(pattern: str, text: str) -> bool:
    (condition,) = parse_filter(f'c=like."{pattern}"')
    return read_condition(condition, condition.values).holds(text)


@given(st.text(alphabet="ab%%_", max_size=8), st.text(alphabet="ab", max_size=8))
@settings(max_examples=150)
def test_patterns_are_those_of_like(pattern: str, text: str) -> None:
    assert holds_like(pattern, text) is likes(pattern, text)


def test_no_pattern_holds_up_the_others() -> None:
    """As a plain regular expression four of these took half a minute, in which nobody else was served."""
    assert not holds_like("%e" * 200 + "%z", "e" * 10_000 + "y")
    assert holds_like("%e" * 200 + "%y", "e" * 10_000 + "y")


@pytest.mark.parametrize(
    ("text", "holding", "not_holding"),
    [
        ("c=in.(1,2)", [1, 2], [3, None]),
        ("c=not.in.(1,2)", [3], [1, None]),
        ("c=is.null", [None], [0, False]),
        ("c=not.is.null", [0], [None]),
        ("c=is.true", [True], [False, None, 1]),
        ("c=gte.1,c=lt.3", [1, 2], [0, 3, None]),
    ],
)
def test_lists_nulls_and_several_conditions(text: str, holding: list[Any], not_holding: list[Any]) -> None:
    read = Filter(
        tuple(read_condition(c, [int(v) for v in c.values] if c.typed else c.values) for c in parse_filter(text))
    )
    assert all(read.holds({"c": value}) for value in holding)
    assert not any(read.holds({"c": value}) for value in not_holding)


@pytest.mark.parametrize(
    "text",
    [
        "c",
        "c=1",
        "c=eq",
        "c=between.1",
        "c=in.1",
        'c=eq."a',
        "c=is.3",
        "c d=eq.1",
        ",".join(["c=eq.1"] * 21),
        "c=like.a\\",
    ],
)
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(InputError):
        _ = [read_condition(written, written.values) for written in parse_filter(text)]


@pytest.mark.parametrize(
    "payload",
    [
        {"config": ["alerts"]},
        {"config": {"postgres_changes": {"event": "*"}}},
        {"config": {"postgres_changes": ["alerts"]}},
        {"config": {"postgres_changes": [{"event": 1}]}},
        {"config": {"postgres_changes": [{"event": "*", "table": ["a"]}]}},
        {"config": {"postgres_changes": [{"event": "*", "table": "alerts", "filter": {}}]}},
        {"config": {"postgres_changes": [{"event": "*", "table": "alerts", "select": "id"}]}},
        {"access_token": 1},
        {"cursor": 1},
        {"cursor": [1]},
        {"config": {"cursor": {}}},
        {"cursor": "now", "config": {"cursor": "then"}},
    ],
)
def test_what_is_no_join(payload: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read_join(payload, 100)


@given(st.sampled_from([("alerts", False), ("mg_meter_readings_1h", True)]), st.integers(0, 6), st.data())
def test_a_page_that_is_told_in_two_parts_is_told_once(table: tuple[str, bool], cut: int, data: st.DataObject) -> None:
    """Wherever the first part ended; buckets that one transaction made anew several times are one."""
    name, rewritten = table
    entries = []
    for number in range(1, data.draw(st.integers(1, 4)) + 1):
        keys = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
        times = [datetime(2026, 1, 1, key, tzinfo=UTC) for key in keys]
        parts = [str(key) for key in keys]
        op = data.draw(OPERATIONS)
        entries.append(
            Entry(
                number, 1, NOON, name, op, None, times if rewritten else None, None if rewritten else parts, None, False
            )
        )
    begin = Cursor("0a1b2c3d", "1:1:")
    page = Page(entries, begin, "2:2:", begin)
    whole = changes_of(page, begin)
    first = whole[:cut]
    after = begin.within("2:2:", first[-1].entry, first[-1].row) if first else begin
    second = changes_of(page, after)
    assert {(c.entry, c.row) for c in [*first, *second]} == {(c.entry, c.row) for c in whole}
    assert len(first) + len(second) == len(whole)
    if rewritten:
        assert len({change.key for change in whole}) == len(whole)


async def test_who_is_asked_for_a_change(db: AsyncConnection[Any], gateway_dsn: str) -> None:
    """Nobody whose sites it cannot be of; a device that moved is of both, what belongs to all is for all."""
    ours, theirs = await add_device(db, "ours"), await add_device(db, "theirs", site="HMCE")

    def change(entry: int, table: str, op: Operation, device: UUID | None = None, site: str | None = None) -> Change:
        return Change(entry, 1, NOON, table, op, device, NOON, "1", site)

    changes = [
        change(1, "mg_meter_readings", "INSERT", ours),
        change(2, "mg_meter_readings", "INSERT", theirs),
        change(3, "device_group_members", "DELETE", uuid4()),
        change(4, "mg_device_registry", "UPDATE", theirs, "WLCE"),
        change(5, "alerts", "INSERT", site="WLCE"),
        change(6, "alerts", "UPDATE", site="WLCE"),
        change(7, "alerts", "INSERT", site=None),
        change(8, "market_data", "INSERT", site="WLCE"),
        change(9, "device_templates", "INSERT"),
    ]
    spans = [
        Entry(10, 1, NOON, "mg_meter_readings", "INSERT", [ours, theirs], [NOON, NOON], None, None, True),
        Entry(11, 1, NOON, "mg_meter_readings", "DELETE", None, None, None, None, True),
        Entry(12, 1, NOON, "mg_meter_readings", "INSERT", [ours], [NOON], None, None, True),
    ]
    async with open_pool(gateway_dsn, application_name="test", max_size=1, timeout_s=3) as pool:
        reach = await reach_of(pool, changes, spans)
    for_all = {6, 7, 8, 9, 11}
    for sites, expected in (
        (None, set(range(1, 13))),
        ({"WLCE"}, {1, 4, 5, 10, 12} | for_all),
        ({"HMCE"}, {2, 4, 10} | for_all),
        ({"WLCE", "HMCE"}, {1, 2, 4, 5, 10, 12} | for_all),
        ({"OTHER"}, for_all),
        (set(), for_all),
    ):
        part = reach.of(None if sites is None else frozenset(sites))
        assert sorted([*(c.entry for c in part.changes), *(e.id for e in part.spans)]) == sorted(expected), sites
