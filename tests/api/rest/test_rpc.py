"""Calls of functions on a real database: those that Flux has, and some of every kind that there can be."""

from typing import Any

import pytest
from psycopg import Connection
from tests.api.rest.kit import Rest, identity

from flux.api.identity import Identity, Role

KINDS = """
    CREATE FUNCTION flux_api.add(a integer, b integer DEFAULT 10) RETURNS integer
        LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
    CREATE FUNCTION flux_api.nothing() RETURNS void LANGUAGE sql AS 'SELECT';
    CREATE FUNCTION flux_api.twice(n integer) RETURNS integer LANGUAGE sql STABLE AS 'SELECT 2 * n';
    CREATE FUNCTION flux_api.twice(n text) RETURNS text LANGUAGE sql STABLE AS 'SELECT n || n';
    CREATE FUNCTION flux_api.count_to(n integer) RETURNS SETOF integer
        LANGUAGE sql STABLE AS 'SELECT generate_series(1, n)';
    CREATE FUNCTION flux_api.pair(OUT x integer, OUT y text) LANGUAGE sql STABLE AS $$ SELECT 1, 'one' $$;
    CREATE FUNCTION flux_api.joined(VARIADIC parts text[]) RETURNS text
        LANGUAGE sql STABLE AS $$ SELECT array_to_string(parts, '+') $$;
    CREATE FUNCTION flux_api.whole(json) RETURNS json LANGUAGE sql STABLE AS 'SELECT $1 -> 0';
    CREATE FUNCTION flux_api.of_site(wanted text) RETURNS SETOF flux_api.mg_device_registry LANGUAGE sql STABLE
        AS 'SELECT * FROM flux_api.mg_device_registry WHERE site = wanted';
    CREATE FUNCTION flux_api.add_group(name text) RETURNS SETOF flux_api.device_groups LANGUAGE sql
        AS 'INSERT INTO flux_api.device_groups (name) VALUES ($1) RETURNING *';
    CREATE FUNCTION flux_api.look(what jsonb) RETURNS text LANGUAGE sql STABLE AS $$ SELECT jsonb_typeof(what) $$;
    CREATE FUNCTION flux_api.fails() RETURNS integer LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no luck' USING DETAIL = 'at all', HINT = 'try', ERRCODE = 'P0001'; END $$;
    CREATE FUNCTION flux_api.not_for_readers() RETURNS integer LANGUAGE sql AS 'SELECT 1';
    REVOKE ALL ON FUNCTION flux_api.not_for_readers() FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION flux_api.not_for_readers() TO flux_service;
"""
READER = identity(Role.AUTHENTICATED, frozenset({"WLCE"}))
HOUR = "start_time=2026-01-15T11:00:00Z&end_time=2026-01-15T12:00:00Z"


@pytest.fixture(scope="module", autouse=True)
def _kinds(fleet_dsn: str) -> None:
    with Connection.connect(fleet_dsn, autocommit=True) as connection:
        connection.execute(KINDS)


async def call(
    rest: Rest, name: str, body: Any = None, who: Identity | None = None, *, method: str = "POST", **headers: str
) -> Any:
    """Status and body; the body of a refusal is its code."""
    async with rest.client(who) as client:
        said = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = await client.request(method, f"/rpc/{name}", headers=said, **({} if body is None else {"json": body}))
    shown: Any = answer.json() if answer.content and "json" in answer.headers["content-type"] else answer.text
    return answer.status_code, shown["code"] if answer.status_code >= 300 else shown


async def test_plain_values(rest: Rest) -> None:
    assert await call(rest, "add", {"a": 1, "b": 2}) == (200, 3)
    assert await call(rest, "add", {"a": 1}) == (200, 11)
    assert await call(rest, "add", {"a": None}) == (200, None)
    assert await call(rest, "add?a=1&b=2", method="GET") == (200, 3)
    assert await call(rest, "count_to", {"n": 3}) == (200, [1, 2, 3])
    assert await call(rest, "count_to?n=5&limit=2&offset=1", method="GET") == (200, [2, 3])
    assert await call(rest, "count_to?n=0", method="GET") == (200, [])
    assert await call(rest, "nothing") == (204, "")
    assert await call(rest, "joined?parts=a&parts=b", method="GET") == (200, "a+b")
    assert await call(rest, "joined", {"parts": ["a", "b"]}) == (200, "a+b")
    assert await call(rest, "whole", [{"a": 1.10}]) == (200, {"a": 1.10})
    assert await call(rest, 'look?what={"a":1}', method="GET") == (200, "object")
    assert await call(rest, "look", {"what": [1]}) == (200, "array")
    assert await call(rest, "add?a=1", method="HEAD") == (200, "")


async def test_rows(rest: Rest) -> None:
    assert await call(rest, "pair") == (200, {"x": 1, "y": "one"})
    assert await call(rest, "pair?select=y", method="GET") == (200, {"y": "one"})
    path = "of_site?select=name,sites(site)&wanted=WLCE&type=eq.meter&order=name.desc&limit=1"
    assert await call(rest, path, method="GET") == (200, [{"name": "WLCE-SOLAR-METER", "sites": {"site": "WLCE"}}])
    assert await call(rest, "of_site?select=name&type=eq.bess", {"wanted": "WLCE"}) == (200, [{"name": "WLCE-BESS-01"}])
    single = "application/vnd.pgrst.object+json"
    assert await call(rest, "of_site?select=name&type=eq.bess", {"wanted": "WLCE"}, Accept=single) == (
        200, {"name": "WLCE-BESS-01"},
    )  # fmt: skip
    assert await call(rest, "of_site?select=name", {"wanted": "WLCE"}, Accept=single) == (406, "PGRST116")
    csv = await call(rest, "of_site?select=type&order=name", {"wanted": "WLCE"}, Accept="text/csv")
    assert csv == (200, "type\nbess\nmeter\nmeter\n")


async def test_which_function_a_call_means(rest: Rest) -> None:
    assert await call(rest, "twice", {"n": 2}) == (300, "PGRST203")
    for name, body in (("ad", {}), ("add", {}), ("add", {"a": 1, "c": 1}), ("twice", {}), ("joined", [])):
        assert await call(rest, name, body) == (404, "PGRST202"), name
    assert await call(rest, "add?b=1", method="GET") == (404, "PGRST202")
    assert await call(rest, "add", {"a": "one"}) == (400, "22P02")
    assert await call(rest, "add?a=1", method="PUT") == (405, "PGRST101")
    assert await call(rest, "fails", {}) == (400, "P0001")


async def test_a_get_changes_nothing_and_a_post_does_unless_it_says_so(rest: Rest, plain: Connection[Any]) -> None:
    groups = "SELECT count(*) FROM flux.device_groups WHERE name LIKE 'by rpc%'"
    assert await call(rest, "add_group?name=by rpc", method="GET") == (405, "25006")
    tried = await call(rest, "add_group?select=name", {"name": "by rpc 1"}, Prefer="tx=rollback")
    assert tried == (200, [{"name": "by rpc 1"}])
    assert plain.execute(groups).fetchone() == (0,)
    assert await call(rest, "add_group?select=name", {"name": "by rpc 1"}) == (200, [{"name": "by rpc 1"}])
    many = await call(rest, "add_group", {"name": "by rpc 2"}, Prefer="handling=strict, max-affected=0")
    assert many == (400, "PGRST124")
    assert await call(rest, "add_group", {"name": "by rpc 1"}) == (409, "23505")
    assert plain.execute(groups).fetchone() == (1,)


async def test_a_function_is_for_the_roles_that_have_it(rest: Rest) -> None:
    assert await call(rest, "not_for_readers", {}) == (200, 1)
    assert await call(rest, "not_for_readers", {}, READER) == (403, "42501")
    assert await call(rest, "add", {"a": 1}, identity(Role.ANON, frozenset())) == (401, "42501")


async def test_buckets_of_the_callers_sites(rest: Rest, plain: Connection[Any]) -> None:
    ours, theirs = (
        str(plain.execute("SELECT id FROM flux.mg_device_registry WHERE name = %s", (name,)).fetchall()[0][0])
        for name in ("WLCE-GRID-METER", "HMCE-GRID-METER")
    )
    select = "select=time_b,device_id,samples,energy_imported_active_delta&order=time_b,device_id"
    expected = plain.execute(
        """SELECT count(*), count(DISTINCT device_id) FROM flux.get_meter_readings_5m(%s, %s)""",
        ("2026-01-15T11:00:00Z", "2026-01-15T12:00:00Z"),
    ).fetchall()[0]
    _, everything = await call(rest, f"get_meter_readings_5m?{HOUR}&{select}", method="GET")
    assert (len(everything), len({row["device_id"] for row in everything})) == expected
    _, seen = await call(rest, f"get_meter_readings_5m?{HOUR}&{select}", None, READER, method="GET")
    assert {row["device_id"] for row in seen} == {row["device_id"] for row in everything} - {theirs}
    for array in (f"{{{ours}}}", f'["{ours}"]'):
        _, one = await call(rest, f"get_meter_readings_5m?{HOUR}&device_ids={array}&{select}", method="GET")
        assert {row["device_id"] for row in one} == {ours}
    posted = {"start_time": "2026-01-15T11:00:00Z", "end_time": "2026-01-15T12:00:00Z", "device_ids": [ours]}
    assert (await call(rest, f"get_meter_readings_5m?{select}", posted)) == (200, one)
    hidden = {**posted, "device_ids": [theirs]}
    assert await call(rest, "get_meter_readings_5m", hidden, READER) == (200, [])
    status, found = await call(rest, "get_meter_readings_1h", posted | {"device_ids": f"{{{ours}}}"})
    assert (status, [row["device_id"] for row in found]) == (200, [ours])


async def test_the_root_describes_what_a_role_may_do(rest: Rest) -> None:
    async with rest.client(READER) as client:
        answer = await client.get("/", headers={"Accept": "application/openapi+json"})
        head = await client.head("/")
        refused = await client.get("/", headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/openapi+json; charset=utf-8")
    paths = answer.json()["paths"]
    assert set(paths["/mg_device_registry"]) == {"get"}
    assert "/rpc/get_meter_readings_5m" in paths
    assert "/rpc/not_for_readers" not in paths
    assert (head.status_code, head.content, refused.status_code) == (200, b"", 406)
