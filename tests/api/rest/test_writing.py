"""POST, PATCH, PUT and DELETE on a real database, by callers of several roles and sites."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg import AsyncConnection
from tests.api.rest.kit import Rest, identity, rest_on
from tests.support import NOON, add_device, fetch

from flux.api.identity import Identity, Role
from flux.api.rest.room import Limits
from flux.store.db import connect
from flux.store.gateway import gateway_dsn as make_gateway_dsn

Db = AsyncConnection[Any]
EDGE = identity(Role.EDGE, frozenset({"WLCE"}))
OPERATOR = identity(Role.OPERATOR, frozenset({"WLCE"}))


@pytest.fixture
async def rest(gateway_dsn: str) -> AsyncIterator[Rest]:
    async with rest_on(gateway_dsn) as app:
        yield app


@pytest.fixture(scope="module")
def refusing_gateway(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of one database for all tests in which nothing is stored."""
    return make_gateway_dsn(module_dsn, tmp_path_factory.mktemp("gateway"))


@pytest.fixture
async def refusing(refusing_gateway: str) -> AsyncIterator[Rest]:
    async with rest_on(refusing_gateway) as app:
        yield app


async def send(
    rest: Rest, method: str, path: str, body: Any = None, who: Identity | None = None, prefer: str = "", **headers: str
) -> httpx.Response:
    """``body``: JSON, or text or bytes as they are."""
    said = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Prefer": prefer} if prefer else {})
    given = {"content": body} if isinstance(body, str | bytes) else {} if body is None else {"json": body}
    async with rest.client(who) as client:
        return await client.request(method, path, headers=said, **given)


def reading(device: UUID, minute: int = 0, **values: Any) -> dict[str, Any]:
    return {"device_id": str(device), "time": (NOON + timedelta(minutes=minute)).isoformat(), **values}


async def stored(db: Db, table: str = "mg_meter_readings") -> int:
    ((count,),) = await fetch(db, f"SELECT count(*) FROM flux.{table}")
    return int(count)


# ── POST ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_object_is_one_row_and_comes_back_as_asked(rest: Rest, db: Db) -> None:
    made = await send(rest, "POST", "/sites", {"site": "AAAA", "name": "A"})
    assert (made.status_code, made.content, made.headers["content-range"]) == (201, b"", "*/*")
    shown = await send(
        rest, "POST", "/sites?select=site,called:name", {"site": "BBBB"}, prefer="return=representation, count=exact"
    )
    assert (shown.status_code, shown.json()) == (201, [{"site": "BBBB", "called": None}])
    assert shown.headers["content-range"] == "*/1"
    assert shown.headers["preference-applied"] == "return=representation, count=exact"
    located = await send(rest, "POST", "/sites", {"site": "CC-C"}, prefer="return=headers-only")
    assert (located.status_code, located.headers["location"], located.content) == (201, "/sites?site=eq.CC-C", b"")
    one = await send(rest, "POST", "/sites", {"site": "DDDD"}, prefer="return=representation",
                     Accept="application/vnd.pgrst.object+json")  # fmt: skip
    assert one.json()["site"] == "DDDD"
    assert await stored(db, "sites") == 4


async def test_what_comes_back_embeds_what_it_belongs_to(rest: Rest, db: Db) -> None:
    await send(rest, "POST", "/sites", {"site": "WLCE", "name": "Wilton"})
    device = {"name": "M1", "type": "meter", "site": "WLCE", "metadata": {"phases": 3}}
    shown = await send(rest, "POST", "/mg_device_registry?select=name,metadata->phases,sites(name)", device, OPERATOR,
                       "return=representation")  # fmt: skip
    assert shown.json() == [{"name": "M1", "phases": 3, "sites": {"name": "Wilton"}}]


async def test_many_rows_as_json_csv_or_a_form(rest: Rest, db: Db) -> None:
    many = await send(rest, "POST", "/sites", [{"site": f"S{n}", "name": "x"} for n in range(50)])
    assert many.status_code == 201
    table = 'site,name,import_limit_kw\nC1,"with, comma",12.5\nC2,NULL,NULL\n'
    assert (await send(rest, "POST", "/sites", table, Content_Type="text/csv")).status_code == 201
    form = await send(rest, "POST", "/sites", "site=F1&name=a+b", Content_Type="application/x-www-form-urlencoded")
    assert form.status_code == 201
    found = await fetch(db, "SELECT site, name, import_limit_kw FROM flux.sites WHERE site !~ '^S' ORDER BY site")
    assert found == [("C1", "with, comma", 12.5), ("C2", None, None), ("F1", "a b", None)]
    assert await stored(db, "sites") == 53


async def test_columns_say_what_is_taken_and_missing_ones_are_null_or_the_default(rest: Rest, db: Db) -> None:
    rows = [{"site": "AAAA", "name": "a", "nonsense": 1}, {"site": "BBBB"}]
    assert (await send(rest, "POST", "/sites?columns=site,name", rows)).status_code == 201
    rows = [{"site": "CCCC", "timezone": "Europe/Berlin"}, {"site": "DDDD"}]
    null = await send(rest, "POST", "/sites?columns=site,timezone", rows)
    assert (null.status_code, null.json()["code"]) == (400, "23502")
    done = await send(rest, "POST", '/sites?columns="site","timezone"', rows, prefer="missing=default, return=minimal")
    assert (done.status_code, done.headers["preference-applied"]) == (201, "missing=default, return=minimal")
    assert await fetch(db, "SELECT site, name, timezone FROM flux.sites ORDER BY site") == [
        ("AAAA", "a", "Europe/London"), ("BBBB", None, "Europe/London"),
        ("CCCC", None, "Europe/Berlin"), ("DDDD", None, "Europe/London"),
    ]  # fmt: skip
    nothing = await send(rest, "POST", "/sites?columns=site", [], prefer="return=representation")
    assert (nothing.status_code, nothing.json()) == (201, [])


async def test_an_upsert_says_whether_anything_is_new(rest: Rest, db: Db) -> None:
    merge = "resolution=merge-duplicates, return=representation"
    first = await send(rest, "POST", "/sites?select=site,name", [{"site": "AAAA", "name": "1"}], prefer=merge)
    assert (first.status_code, first.json()) == (201, [{"site": "AAAA", "name": "1"}])
    mixed = await send(
        rest, "POST", "/sites", [{"site": "AAAA", "name": "2"}, {"site": "BBBB", "name": "2"}], prefer=merge
    )
    assert mixed.status_code == 201
    again = await send(rest, "POST", "/sites?select=name", [{"site": "AAAA", "name": "3"}], prefer=merge)
    assert (again.status_code, again.json()) == (200, [{"name": "3"}])
    rows = [{"site": "AAAA", "name": "4"}, {"site": "CCCC", "name": "4"}]
    ignore = "resolution=ignore-duplicates, return=representation"
    ignored = await send(rest, "POST", "/sites?select=site", rows, prefer=ignore)
    assert (ignored.status_code, ignored.json()) == (201, [{"site": "CCCC"}])
    only_key = await send(rest, "POST", "/sites?select=site", [{"site": "AAAA"}], prefer=merge)
    assert (only_key.status_code, only_key.json()) == (200, [{"site": "AAAA"}])
    assert await fetch(db, "SELECT site, name FROM flux.sites ORDER BY 1") == [
        ("AAAA", "3"),
        ("BBBB", "2"),
        ("CCCC", "4"),
    ]
    twice = await send(
        rest, "POST", "/sites", [{"site": "AAAA", "name": "5"}, {"site": "AAAA", "name": "6"}], prefer=merge
    )
    assert (twice.status_code, twice.json()["code"]) == (400, "21000")


async def test_an_upsert_by_another_unique_key(rest: Rest, db: Db) -> None:
    merge = "resolution=merge-duplicates"
    value = {"type": 2, "time": "2026-01-15T12:00:00Z", "value": 50}
    path = "/market_data?on_conflict=type,site,time"
    assert (await send(rest, "POST", path, value, prefer=merge)).status_code == 201
    assert (await send(rest, "POST", path, [value | {"value": 60}], prefer=merge)).status_code == 200
    assert await fetch(db, "SELECT value FROM flux.market_data") == [(60,)]
    assert await fetch(db, "SELECT value FROM flux.market_data_history ORDER BY known_at") == [(50,), (60,)]
    no_key = await send(rest, "POST", "/market_data?on_conflict=value", value, prefer=merge)
    assert (no_key.status_code, no_key.json()["code"]) == (400, "42P10")
    no_column = await send(rest, "POST", "/market_data?on_conflict=nothing", value, prefer=merge)
    assert (no_column.status_code, no_column.json()["code"]) == (400, "PGRST204")


# ── Readings ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_readings_of_weeks_that_have_no_partition_are_stored(rest: Rest, db: Db) -> None:
    device = await add_device(db, "M1")
    weeks = [reading(device, 7 * 24 * 60 * week, frequency=50.0, energy_imported_active=week) for week in range(3)]
    assert (await send(rest, "POST", "/mg_meter_readings", weeks, EDGE)).status_code == 201
    assert await stored(db) == 3
    changes = await fetch(db, "SELECT count(*) FROM flux.rollup_changes WHERE device_id = %s", (device,))
    assert changes[0][0] >= 3
    audited = await fetch(db, "SELECT object, verb, rows, name FROM flux.api_audit")
    assert audited == [("mg_meter_readings", "INSERT", 3, "test edge")]


async def test_a_reading_sent_twice_is_a_conflict_or_passed_over(rest: Rest, db: Db) -> None:
    device = await add_device(db, "M1")
    rows = [reading(device, minute, frequency=50) for minute in range(2)]
    assert (await send(rest, "POST", "/mg_meter_readings", rows, EDGE)).status_code == 201
    rows.append(reading(device, 2, frequency=50))
    again = await send(rest, "POST", "/mg_meter_readings", rows, EDGE)
    assert (again.status_code, again.json()["code"]) == (409, "23505")
    assert await stored(db) == 2
    ignored = await send(rest, "POST", "/mg_meter_readings?select=time", rows, EDGE,
                         "resolution=ignore-duplicates, return=representation")  # fmt: skip
    assert (ignored.status_code, len(ignored.json())) == (201, 1)
    named = "/mg_meter_readings?on_conflict=device_id,time"
    assert (await send(rest, "POST", named, rows, EDGE, "resolution=ignore-duplicates")).status_code == 201
    assert await stored(db) == 3
    # an edge adds readings, and changes none
    merged = await send(rest, "POST", named, rows, EDGE, "resolution=merge-duplicates")
    assert (merged.status_code, merged.json()["code"]) == (403, "42501")


@pytest.mark.parametrize(
    ("values", "code", "told"),
    [
        ({"frequency": "NaN"}, "23514", "frequency"),
        ({"energy_imported_active": -1}, "23514", "energy_imported_active"),
        ({"frequency": "fast"}, "22P02", 'column "frequency" of row 2: "fast"'),
        ({"power_total_active": 1e300}, "22003", 'column "power_total_active" of row 2'),
        ({"frequency": {"a": 1}}, "22P02", 'column "frequency"'),
        ({"time": "yesterday, perhaps"}, "22007", 'column "time" of row 2'),
        ({"time": "1999-12-31T00:00:00Z"}, "23514", "from the year 2000 on"),
        ({"time": "2999-01-01T00:00:00Z"}, "23514", "ahead of the server's clock"),
        ({"time": "infinity"}, "23514", "ahead of the server's clock"),
        ({"time": None}, "23502", "time"),
        ({"device_id": None}, "23502", "device_id"),
        ({"device_id": "M1"}, "22P02", 'column "device_id" of row 2: "M1"'),
        ({"nonsense": 1}, "PGRST102", "All object keys must match"),
    ],
)  # fmt: skip
async def test_a_reading_that_cannot_be_is_told_and_none_is_stored(
    refusing: Rest, module_dsn: str, values: dict[str, Any], code: str, told: str
) -> None:
    async with await connect(module_dsn, application_name="test", autocommit=True) as db:
        device = await add_device(db, f"M{uuid4()}")
        good = reading(device, **{name: 50 for name in values if name not in {"time", "device_id", "nonsense"}})
        refused = await send(refusing, "POST", "/mg_meter_readings", [good, reading(device, 1) | values], EDGE)
        assert (refused.status_code, refused.json()["code"]) == (400, code)
        assert told in refused.json()["message"] + str(refused.json()["details"])
        assert await stored(db) == 0


async def test_a_device_of_another_site_is_as_one_that_nobody_knows(rest: Rest, db: Db) -> None:
    ours, battery = await add_device(db, "M1"), await add_device(db, "B1", "bess")
    theirs = await add_device(db, "M2", site="HMCE")
    await send(rest, "POST", "/mg_meter_readings", reading(theirs, frequency=50))
    told = set()
    for minute in (0, 1):  # there already, and not there: who may not see it learns neither
        for prefer in ("", "resolution=ignore-duplicates"):
            for strange in (theirs, uuid4()):
                rows = [reading(ours, 5), reading(strange, minute)]
                refused = await send(rest, "POST", "/mg_meter_readings", rows, EDGE, prefer)
                told.add((refused.status_code, refused.text.replace(str(strange), "…")))
    ((status, message),) = told
    assert (status, "there is no device …" in message) == (403, True)
    wrong = await send(rest, "POST", "/mg_meter_readings", reading(battery), EDGE)
    assert (wrong.status_code, wrong.json()["message"]) == (
        400, f"device {battery} is a bess: its readings go to mg_bess_readings, not to mg_meter_readings",
    )  # fmt: skip
    assert await stored(db) == 1


# ── PATCH, DELETE, PUT ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_patch_changes_what_its_filters_mean(rest: Rest, db: Db) -> None:
    await send(rest, "POST", "/sites", [{"site": f"S{n}", "name": "old"} for n in range(4)])
    changed = await send(rest, "PATCH", "/sites?site=in.(S0,S1)&select=site&order=site.desc", {"name": "new"},
                         prefer="return=representation, count=exact")  # fmt: skip
    assert (changed.status_code, changed.json()) == (200, [{"site": "S1"}, {"site": "S0"}])
    assert changed.headers["content-range"] == "0-1/2"
    quiet = await send(rest, "PATCH", "/sites?or=(site.eq.S2,site.eq.none)", {"name": None})
    assert (quiet.status_code, quiet.content, quiet.headers["content-range"]) == (204, b"", "0-0/*")
    none = await send(rest, "PATCH", "/sites?site=eq.none", {"name": "x"}, prefer="count=exact")
    assert (none.status_code, none.headers["content-range"]) == (204, "*/0")
    empty = await send(rest, "PATCH", "/sites?site=eq.S0", {}, prefer="return=representation")
    assert (empty.status_code, empty.json()) == (200, [])
    default = await send(rest, "PATCH", "/sites?site=eq.S3&columns=timezone", {}, prefer="missing=default")
    assert default.status_code == 204
    names = [name for (name,) in await fetch(db, "SELECT name FROM flux.sites ORDER BY site")]
    assert names == ["new", "new", None, "old"]


async def test_a_write_to_every_row_is_taken_for_a_mistake(rest: Rest, db: Db) -> None:
    await send(rest, "POST", "/device_groups", [{"name": "A"}, {"name": "B"}])
    for method, verb in (("PATCH", "UPDATE"), ("DELETE", "DELETE")):
        refused = await send(rest, method, "/device_groups", {"metadata": {}} if method == "PATCH" else None)
        assert (refused.status_code, refused.json()["code"]) == (400, "21000")
        assert refused.json()["message"] == f"{verb} requires a WHERE clause"
    assert await stored(db, "device_groups") == 2
    assert (await send(rest, "DELETE", "/device_groups?id=not.is.null")).status_code == 204
    assert await stored(db, "device_groups") == 0


async def test_a_limit_on_a_write_needs_an_order(rest: Rest, db: Db) -> None:
    await send(rest, "POST", "/device_groups", [{"name": name} for name in "ABCD"])
    refused = await send(rest, "DELETE", "/device_groups?limit=1")
    assert (refused.status_code, refused.json()["code"]) == (400, "PGRST109")
    gone = await send(rest, "DELETE", "/device_groups?order=name.desc&limit=2&offset=1&select=name",
                      prefer="return=representation, count=exact")  # fmt: skip
    assert ([row["name"] for row in gone.json()], gone.headers["content-range"]) == (["C", "B"], "*/2")
    changed = await send(rest, "PATCH", "/device_groups?order=name&limit=1", {"metadata": {"a": 1}})
    assert changed.status_code == 204
    assert await fetch(db, "SELECT name FROM flux.device_groups WHERE metadata <> '{}'") == [("A",)]


async def test_a_write_stays_only_where_its_outcome_is_as_wanted(rest: Rest, db: Db) -> None:
    await send(rest, "POST", "/device_groups", [{"name": name} for name in "ABC"])
    many = await send(rest, "DELETE", "/device_groups?id=not.is.null", prefer="handling=strict, max-affected=2")
    assert (many.status_code, many.json()["code"]) == (400, "PGRST124")
    assert many.json()["details"] == "The query affects 3 rows"
    unknown = await send(rest, "DELETE", "/device_groups?name=eq.A", prefer="handling=strict, anything")
    assert (unknown.status_code, unknown.json()["code"]) == (400, "PGRST122")
    single = await send(rest, "DELETE", "/device_groups?id=not.is.null", Accept="application/vnd.pgrst.object+json")
    assert (single.status_code, single.json()["details"]) == (406, "The result contains 3 rows")
    tried = await send(
        rest, "DELETE", "/device_groups?id=not.is.null&select=name", prefer="tx=rollback, return=representation"
    )
    assert (tried.status_code, len(tried.json())) == (200, 3)
    assert "tx=rollback" in tried.headers["preference-applied"]
    assert await stored(db, "device_groups") == 3
    allowed = await send(rest, "DELETE", "/device_groups?name=eq.A", prefer="handling=strict, max-affected=1")
    assert (allowed.status_code, await stored(db, "device_groups")) == (204, 2)


async def test_a_put_makes_or_replaces_the_one_row_that_it_names(rest: Rest, db: Db) -> None:
    path = "/sites?site=eq.AAAA"
    assert (await send(rest, "PUT", path, {"site": "AAAA", "name": "1"})).status_code == 204
    again = await send(rest, "PUT", path, [{"site": "AAAA", "name": "2"}], prefer="return=representation")
    assert (again.status_code, again.json()[0]["name"]) == (200, "2")
    new = await send(rest, "PUT", "/sites?site=eq.BBBB", {"site": "BBBB"}, prefer="return=representation")
    assert new.status_code == 201
    for wrong, body, status, code in (
        (path, {"site": "CCCC"}, 400, "PGRST115"),
        (path, {"name": "3"}, 400, "PGRST115"),
        (path, [{"site": "AAAA", "name": "3"}, {"site": "CCCC", "name": "3"}], 201, None),
        ("/sites?name=eq.AAAA", {"site": "AAAA"}, 405, "PGRST105"),
        ("/sites?site=neq.AAAA", {"site": "AAAA"}, 405, "PGRST105"),
        ("/sites", {"site": "AAAA"}, 405, "PGRST105"),
        (path + "&limit=1", {"site": "AAAA"}, 400, "PGRST114"),
    ):
        refused = await send(rest, "PUT", wrong, body)
        if code is not None:
            assert (refused.status_code, refused.json()["code"]) == (status, code), wrong
    assert await fetch(db, "SELECT site FROM flux.sites ORDER BY 1") == [("AAAA",), ("BBBB",)]


# ── What is refused ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/site", {"site": "A"}, {}, 404, "PGRST205"),
        ("POST", "/sites", {"sight": "A"}, {}, 400, "PGRST204"),
        ("PATCH", "/sites?site=eq.A", {"sight": "A"}, {}, 400, "PGRST204"),
        ("PATCH", "/sites?sight=eq.A", {"name": "A"}, {}, 400, "42703"),
        ("POST", "/sites?columns=sight", {"site": "A"}, {}, 400, "PGRST204"),
        ("POST", "/sites?select=sight", {"site": "A"}, {}, 400, "42703"),
        ("POST", "/sites", "<a/>", {"Content_Type": "text/xml"}, 415, "PGRST102"),
        ("POST", "/sites", "", {"Content_Type": "application/json"}, 400, "PGRST102"),
        ("POST", "/sites?columns=site", '[{"site":', {"Content_Type": "application/json"}, 400, "22P02"),
        ("POST", "/sites?columns=site", '[{"site":"\\u0000"}]', {"Content_Type": "application/json"}, 400, "22P05"),
        ("POST", "/sites?columns=site", "[" * 50_000, {"Content_Type": "application/json"}, 400, "54001"),
        ("POST", "/sites?columns=site", "[1, 2]", {"Content_Type": "application/json"}, 400, "22023"),
        ("POST", "/sites", {"site": "not a site!"}, {}, 400, "23514"),
        ("POST", "/sites", {"site": "A"}, {"Content_Profile": "private"}, 406, "PGRST106"),
        ("POST", "/sites", {"site": "A"}, {"Accept": "image/png"}, 406, "PGRST107"),
        ("POST", "/device_events", {"to_state": "active"}, {}, 403, "42501"),
        ("DELETE", "/mg_device_registry?name=eq.M1", None, {}, 403, "42501"),
        ("POST", "/mg_meter_daily_totals", {"day": "2026-01-01"}, {}, 403, "42501"),
        ("POST", "/device_group_members", {"group_id": str(uuid4()), "device_id": str(uuid4())}, {}, 409, "23503"),
        ("POST", "/sites?on_conflict=site&columns=site", b'[{"site":"\xff"}]', {}, 400, "PGRST102"),
    ],
)  # fmt: skip
async def test_what_is_refused_is_told_as_clients_know_it(
    refusing: Rest, method: str, path: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    refused = await send(refusing, method, path, body, None, "", **headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


async def test_a_body_that_is_too_long_is_not_read(gateway_dsn: str) -> None:
    async with rest_on(gateway_dsn, Limits(body_bytes=100)) as rest:
        refused = await send(rest, "POST", "/sites", [{"site": "A" * 100}])
        assert (refused.status_code, refused.json()["code"]) == (413, "PGRST102")


async def test_a_reader_writes_nothing_and_an_operator_only_its_own_site(rest: Rest, db: Db) -> None:
    reader = identity(Role.AUTHENTICATED)
    for method, path in (("POST", "/sites"), ("PATCH", "/sites?site=eq.A"), ("DELETE", "/device_groups?name=eq.A")):
        refused = await send(rest, method, path, {"name": "x"}, reader)
        assert (refused.status_code, refused.json()["code"]) == (403, "42501")
    await add_device(db, "M2", site="HMCE")
    other = await send(rest, "PATCH", "/mg_device_registry?name=eq.M2&select=id", {"name": "mine"}, OPERATOR,
                       "return=representation")  # fmt: skip
    assert (other.status_code, other.json()) == (200, [])
    moved = await send(rest, "POST", "/mg_device_registry", {"name": "M3", "type": "meter", "site": "HMCE"}, OPERATOR)
    assert (moved.status_code, moved.json()["code"]) == (403, "42501")
    assert await fetch(db, "SELECT name FROM flux.mg_device_registry") == [("M2",)]


@pytest.mark.parametrize(
    ("row", "missing"), [({"status": "online"}, "device_id"), ({"device_id": str(UUID(int=1))}, "timestamp")]
)
async def test_a_row_of_a_series_names_its_device_and_time(rest: Rest, row: dict[str, str], missing: str) -> None:
    refused = await send(rest, "POST", "/device_health", [row])
    assert (refused.status_code, refused.json()["code"]) == (400, "23502")
    assert f'"{missing}"' in refused.json()["message"]
