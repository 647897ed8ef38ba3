"""Writing through the clients: insert, upsert, update, delete, what they give back and what they refuse."""

from typing import Any

from tests.api.chains import table
from tests.api.client_cases import JAVASCRIPT, Case

# All of these rows are of type 5 and after this time; the fleet has none.
_AT = "2026-02-0{}T00:00:00+00:00"
_UNDO = "DELETE FROM flux.market_data WHERE type = 5"
_M = table("market_data")
_COLUMNS = "time, type, value, metadata, site"
_STORED = f"SELECT {_COLUMNS} FROM flux.market_data WHERE type = 5 ORDER BY time, site"
_NONE = "SELECT NOT EXISTS (SELECT FROM flux.market_data WHERE type = 5)"


def _row(day: int, value: object, **more: object) -> dict[str, Any]:
    return {"time": _AT.format(day), "type": 5, "value": value, **more}


def _values(*values: float) -> str:
    """That exactly these are stored, by time."""
    listed = ",".join(map(str, values))
    return f"SELECT array_agg(value ORDER BY time, site) = '{{{listed}}}' FROM flux.market_data WHERE type = 5"


def _after(name: str, calls: Any, *values: float, **more: Any) -> Case:
    """A write that gives back what is stored after it."""
    return Case(name, calls.select(_COLUMNS), _STORED, state_sql=_values(*values), undo_sql=_UNDO, **more)


def _refused(name: str, calls: Any, code: str, **more: Any) -> Case:
    return Case(name, calls, error=code, state_sql=_NONE, undo_sql=_UNDO, **more)


_TWO = [_row(1, 1.5), _row(2, -2.25, site="WLCE", metadata={"näme": ["a,b", 'c"d', None], "n": 1e300})]

INSERTS = (
    _after("insert one", _M.insert(_row(1, 1.5)), 1.5),
    _after("insert two", _M.insert([_row(1, 1.5, site=None), _row(2, -2.25, site="WLCE")]), 1.5, -2.25),
    _after("missing columns take their defaults", _M.insert(_TWO, default_to_null=False), 1.5, -2.25),
    _after("an extra row by upsert", _M.upsert(_row(1, 3), on_conflict="type,site,time"), 3),
    Case(
        "insert, giving nothing back",
        _M.insert(_row(1, 1.5), returning="minimal"),
        shape="nothing",
        state_sql=_values(1.5),
        undo_sql=_UNDO,
    ),
    Case(
        "insert one, given back as an object",
        _M.insert(_row(1, 1.5)).select("id", "value").single(),
        "SELECT id, value FROM flux.market_data WHERE type = 5",
        shape="one",
        undo_sql=_UNDO,
        only=JAVASCRIPT,
    ),
    Case(
        "insert, counted",
        _M.insert(_TWO, default_to_null=False, count="exact").select("value"),
        "SELECT value FROM flux.market_data WHERE type = 5 ORDER BY time",
        count_sql="SELECT 2",
        undo_sql=_UNDO,
    ),
    Case(
        "what is given back can be embedded",
        _M.insert(_row(1, 1.5, site="WLCE")).select("value, sites(site), kind:market_data_types(unit)"),
        """SELECT value, json_build_object('site', site) AS sites, json_build_object('unit', unit) AS kind
           FROM flux.market_data JOIN flux.market_data_types t ON t.id = type WHERE type = 5""",
        undo_sql=_UNDO,
    ),
    Case("an empty list", _M.insert([]).select("value"), "SELECT 1 WHERE false", state_sql=_NONE),
    _refused("a row twice", _M.insert([_row(1, 1), _row(1, 2)]), "23505"),
    _refused("a site that is not there", _M.insert(_row(1, 1, site="NONE")), "23503"),
    _refused("a column that must be there is null", _M.insert(_row(1, None)), "23502"),
    _refused("columns missing in one of the rows are null", _M.insert(_TWO), "23502"),
    _refused("a value that is not a number", _M.insert(_row(1, "high")), "22P02"),
    _refused("a value that the table refuses", _M.insert(_row(1, "Infinity")), "23514"),
    _refused("a column that is not there", _M.insert({**_row(1, 1), "colour": "red"}), "PGRST204", only=JAVASCRIPT),
    _refused("a column of a list that is not there", _M.insert([{**_row(1, 1), "colour": "red"}]), "PGRST204"),
    _refused("a table that is not there", table("no_such_table").insert({"a": 1}), "PGRST205"),
    _refused("what is not an object", _M.insert([1, 2]), "PGRST102"),
)

_HAS = (
    "INSERT INTO flux.market_data (time, type, value) VALUES ('2026-02-01Z', 5, 1), ('2026-02-02Z', 5, 2),"
    " ('2026-02-03Z', 5, 3)"
)
_SAME = [_row(1, 10), _row(4, 40)]
_KEY = "type,site,time"


def _stored_before(case: Case) -> tuple[Case, Case]:
    """A case that needs the three rows, and before it one that brings them."""
    put = Case(
        f"({case.name}: before)",
        _M.insert([_row(1, 1), _row(2, 2), _row(3, 3)], returning="minimal"),
        shape="nothing",
        state_sql=_values(1, 2, 3),
        only=case.only,
    )
    return put, case


def _changed(name: str, calls: Any, given_sql: str, *values: float, **more: Any) -> tuple[Case, Case]:
    shape = "rows" if given_sql else "nothing"
    return _stored_before(
        Case(name, calls, given_sql, shape=more.pop("shape", shape), state_sql=_values(*values), undo_sql=_UNDO, **more)
    )


def _kept(name: str, calls: Any, code: str, **more: Any) -> tuple[Case, Case]:
    return _stored_before(Case(name, calls, error=code, state_sql=_values(1, 2, 3), undo_sql=_UNDO, **more))


_GIVEN = "SELECT value FROM flux.market_data WHERE type = 5 AND {} ORDER BY time"
_GONE = "SELECT v::float AS value FROM unnest(ARRAY[{}]) v"

CHANGES = (
    *_changed(
        "upsert", _M.upsert(_SAME, on_conflict=_KEY).select("value"), _GIVEN.format("value >= 10"), 10, 2, 3, 40
    ),
    *_changed(
        "upsert, ignoring what is there",
        _M.upsert(_SAME, on_conflict=_KEY, ignore_duplicates=True).select("value"),
        _GIVEN.format("value = 40"),
        1, 2, 3, 40,
    ),
    *_changed(
        "update",
        _M.update({"value": 7, "metadata": {"why": "ok"}}).eq("type", 5).gte("time", _AT.format(2)).select(_COLUMNS),
        f"SELECT {_COLUMNS} FROM flux.market_data WHERE type = 5 AND value = 7",
        1, 7, 7,
    ),
    *_changed(
        "update, counted, giving nothing back",
        _M.update({"value": 7}, count="exact", returning="minimal").eq("type", 5).neq("value", 2),
        "",
        7, 2, 7,
        count_sql="SELECT 2",
    ),
    *_changed("update of nothing", _M.update({"value": 7}).eq("type", 5).eq("value", 9).select("value"),
              "SELECT 1 WHERE false", 1, 2, 3),
    *_changed("update by or", _M.update({"value": 7}, returning="minimal").or_("value.eq.1,value.eq.3").eq("type", 5),
              "", 7, 2, 7),
    *_changed("delete", _M.delete(returning="minimal").eq("type", 5).in_("value", [1, 3]), "", 2),
    *_changed("delete, given back", _M.delete().eq("type", 5).lt("value", 2).select("value"), _GONE.format(1), 2, 3),
    *_changed("delete, counted", _M.delete(count="exact", returning="minimal").eq("type", 5).gt("value", 1), "", 1,
              count_sql="SELECT 2"),
    *_changed("no more than allowed", _M.update({"value": 7}, returning="minimal").eq("type", 5).eq("value", 2)
              .max_affected(1), "", 1, 7, 3),
    *_kept("more than allowed", _M.delete(returning="minimal").eq("type", 5).max_affected(2), "PGRST124"),
    *_kept("an update that makes a duplicate", _M.update({"time": _AT.format(1)}).eq("type", 5), "23505"),
    *_kept("an update to what is refused", _M.update({"value": None}).eq("type", 5), "23502"),
    *_kept("an update of no such column", _M.update({"colour": 1}).eq("type", 5), "PGRST204"),
    *_kept("an upsert by what is no key", _M.upsert(_SAME, on_conflict="value").select("value"), "42P10"),
    *_changed("a write that is rolled back", _M.update({"value": 7}).eq("type", 5).rollback().select("value"),
              "SELECT 7 AS value FROM generate_series(1, 3)", 1, 2, 3, only=JAVASCRIPT),
)  # fmt: skip
