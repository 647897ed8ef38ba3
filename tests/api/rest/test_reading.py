"""GET and HEAD of tables against plain SQL on the same rows."""

import csv
import io
import json
from typing import Any

import pytest
from psycopg import Connection
from tests.api.rest.kit import Rest, identity

from flux.api.identity import ANONYMOUS, Role


def rows_of(plain: Connection[Any], query: str) -> Any:
    """As JSON has them."""
    ((text,),) = plain.execute(f"SELECT coalesce(json_agg(t), '[]')::text FROM ({query}) t".encode()).fetchall()
    return json.loads(text)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("sites?order=site", "SELECT * FROM flux.sites ORDER BY site"),
        ("sites?select=&order=site", "SELECT * FROM flux.sites ORDER BY site"),
        (
            "mg_device_registry?select=name,model:metadata->>manufacturer,active::text&type=eq.bess&order=name.desc",
            """SELECT name, metadata->>'manufacturer' AS model, active::text FROM flux.mg_device_registry
               WHERE type = 'bess' ORDER BY name DESC""",
        ),
        (
            "mg_device_registry?select=name,sites(name)&order=name",
            """SELECT name, (SELECT row_to_json(s) FROM (SELECT name FROM flux.sites WHERE site = d.site) s) AS sites
               FROM flux.mg_device_registry d ORDER BY name""",
        ),
        (
            "mg_device_registry?select=name,site(tz:timezone)&order=name&limit=1&offset=2",
            """SELECT name, '{"tz":"Europe/London"}'::json AS site FROM flux.mg_device_registry
               ORDER BY name LIMIT 1 OFFSET 2""",
        ),
        (
            "sites?select=site,mg_device_registry(name)&mg_device_registry.type=eq.meter"
            "&mg_device_registry.order=name.desc&mg_device_registry.limit=1&order=site",
            """SELECT site, (SELECT json_agg(m) FROM (SELECT name FROM flux.mg_device_registry d
                                 WHERE d.site = s.site AND type = 'meter' ORDER BY name DESC LIMIT 1) m)
                   AS mg_device_registry FROM flux.sites s ORDER BY site""",
        ),
        (
            "device_groups?select=name,batteries:mg_device_registry(name)&batteries.order=name&order=name",
            """SELECT name, (SELECT json_agg(b) FROM (
                   SELECT d.name FROM flux.device_group_members m JOIN flux.mg_device_registry d ON d.id = m.device_id
                   WHERE m.group_id = g.id ORDER BY d.name) b) AS batteries FROM flux.device_groups g ORDER BY name""",
        ),
        (
            "mg_device_registry?select=name,device_group_members!inner()&order=name",
            "SELECT name FROM flux.mg_device_registry WHERE type = 'bess' ORDER BY name",
        ),
        (
            "mg_device_registry?select=name,device_group_members()&device_group_members=is.null&order=name",
            "SELECT name FROM flux.mg_device_registry WHERE type <> 'bess' ORDER BY name",
        ),
        (
            "mg_device_registry?select=name,device_group_members()&order=name"
            "&or=(device_group_members.not.is.null,name.like.*SOLAR*)",
            """SELECT name FROM flux.mg_device_registry WHERE type = 'bess' OR name LIKE '%SOLAR%' ORDER BY name""",
        ),
        (
            "mg_device_registry?select=name,...sites(tz:timezone,site)&order=sites(name).desc.nullslast,name",
            """SELECT d.name, s.timezone AS tz, s.site FROM flux.mg_device_registry d JOIN flux.sites s USING (site)
               ORDER BY s.name DESC NULLS LAST, d.name""",
        ),
        (
            "mg_device_registry?select=name,sites(site)&order=sites(name).asc.nullsfirst,name",
            """SELECT d.name, json_build_object('site', s.site) AS sites FROM flux.mg_device_registry d
               JOIN flux.sites s USING (site) ORDER BY s.name NULLS FIRST, d.name""",
        ),
        (
            "sites?select=site,...mg_device_registry(devices:name)&mg_device_registry.order=name&order=site",
            """SELECT site, (SELECT json_agg(name ORDER BY name) FROM flux.mg_device_registry d WHERE d.site = s.site)
                   AS devices FROM flux.sites s ORDER BY site""",
        ),
        (
            "mg_meter_readings_5m_intermediate?select=time_b,energy_imported_active_delta,mg_device_registry!inner(name)"
            "&mg_device_registry.name=eq.WLCE-GRID-METER&order=time_b.desc&limit=3",
            """SELECT time_b, energy_imported_active_delta, json_build_object('name', d.name) AS mg_device_registry
               FROM flux.mg_meter_readings_5m_intermediate r JOIN flux.mg_device_registry d ON d.id = r.device_id
               WHERE d.name = 'WLCE-GRID-METER' ORDER BY time_b DESC LIMIT 3""",
        ),
        # names that the statement uses itself
        (
            "sites?select=p:name,r:site,t0:timezone,mg_device_registry(r:name,p:type,device_group_members(r:role))"
            "&mg_device_registry.order=name&site=eq.HMCE",
            """SELECT name AS p, site AS r, timezone AS t0, (SELECT json_agg(m) FROM (
                   SELECT name AS r, type AS p, coalesce((SELECT json_agg(n) FROM (
                       SELECT role AS r FROM flux.device_group_members WHERE device_id = d.id) n), '[]'::json)
                       AS device_group_members
                   FROM flux.mg_device_registry d WHERE d.site = s.site ORDER BY name) m) AS mg_device_registry
               FROM flux.sites s WHERE site = 'HMCE'""",
        ),
        (
            "device_health?select=status,tag:diagnostics->tags->>1&diagnostics->tags->>0=eq.a&error_count=in.(1,2)"
            "&order=diagnostics->tags->>1.desc,device_id",
            """SELECT status, diagnostics->'tags'->>1 AS tag FROM flux.device_health WHERE error_count IN (1, 2)
               ORDER BY diagnostics->'tags'->>1 DESC, device_id""",
        ),
    ],
)
async def test_rows_are_those_of_plain_sql(rest: Rest, plain: Connection[Any], path: str, query: str) -> None:
    answer = await rest.get(path)
    assert answer.status_code == 200, answer.text
    expected = rows_of(plain, query)
    assert answer.json() == expected
    assert answer.json(), "the fleet has rows for each of these"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_a_range_is_a_part(rest: Rest) -> None:
    path = "mg_device_registry?select=name&order=name"
    everything = (await rest.get(path)).json()
    answer = await rest.get(path, range="1-2", prefer="count=exact")
    assert (answer.status_code, answer.headers["content-range"]) == (206, "1-2/5")
    assert answer.json() == everything[1:3]
    assert answer.headers["preference-applied"] == "count=exact"
    open_ended = await rest.get(path, range="3-")
    assert (open_ended.status_code, open_ended.headers["content-range"]) == (200, "3-4/*")
    with_limit = await rest.get(path + "&limit=2&offset=1", range="2-9")
    assert (with_limit.headers["content-range"], with_limit.json()) == ("2-2/*", everything[2:3])
    for none, range_ in (("&limit=0", "0-4"), ("&name=eq.none", "0-4")):
        empty = await rest.get(path + none, range=range_)
        assert (empty.status_code, empty.headers["content-range"], empty.json()) == (200, "*/*", [])


@pytest.mark.parametrize(
    ("path", "range_"), [("sites", "4-3"), ("sites?offset=7&limit=2", "0-5"), ("sites?limit=-1", "")]
)
async def test_a_range_of_nothing(rest: Rest, path: str, range_: str) -> None:
    answer = await rest.get(path, range=range_)
    assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")


async def test_a_range_behind_the_end(rest: Rest) -> None:
    answer = await rest.get("sites?offset=3", prefer="count=exact")
    assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")
    assert answer.json()["details"] == "An offset of 3 was requested, but there are only 2 rows."
    at_the_end = await rest.get("sites?offset=2", prefer="count=exact")
    assert (at_the_end.status_code, at_the_end.headers["content-range"]) == (206, "*/2")


async def test_counts(rest: Rest) -> None:
    exact = await rest.get("mg_meter_readings?select=time&limit=2", prefer="count=exact")
    assert (exact.status_code, exact.headers["content-range"]) == (206, "0-1/183")
    inner = "device_health?select=status,mg_device_registry!inner(name)&mg_device_registry.site=eq.WLCE&limit=1"
    assert (await rest.get(inner, prefer="count=exact")).headers["content-range"] == "0-0/12"
    planned = await rest.get("mg_meter_readings?select=time&limit=2", prefer="count=planned")
    assert int(planned.headers["content-range"].partition("/")[2]) > 0
    estimated = await rest.get("mg_meter_readings?select=time&limit=2", prefer="count=estimated")
    assert estimated.headers["content-range"] == "0-1/183"


async def test_a_guess_tells_a_fenced_caller_nothing(rest: Rest) -> None:
    """The planner guesses from the rows of all sites."""
    answer = await rest.get(
        "mg_device_registry?site=eq.HMCE", identity(sites=frozenset({"WLCE"})), prefer="count=planned"
    )
    assert (answer.json(), answer.headers["content-range"]) == ([], "*/0")


async def test_head_has_the_headers_alone(rest: Rest) -> None:
    async with rest.client() as client:
        answer = await client.head("mg_device_registry?type=eq.meter", headers={"Prefer": "count=exact"})
        assert (answer.status_code, answer.headers["content-range"], answer.content) == (200, "0-2/3", b"")
        refused = await client.head("mg_device_registry?kind=eq.meter")
        assert (refused.status_code, refused.content) == (400, b"")


async def test_one_row_as_an_object(rest: Rest) -> None:
    single = "application/vnd.pgrst.object+json"
    answer = await rest.get("sites?select=site,name&site=eq.WLCE", accept=single)
    assert answer.json() == {"site": "WLCE", "name": None}
    assert answer.headers["content-type"] == f"{single}; charset=utf-8"
    stripped = await rest.get("sites?select=site,name&site=eq.WLCE", accept=f"{single};nulls=stripped")
    assert stripped.json() == {"site": "WLCE"}
    for path, rows in (("sites", 2), ("sites?site=eq.none", 0)):
        refused = await rest.get(path, accept=single)
        assert (refused.status_code, refused.json()["code"]) == (406, "PGRST116")
        assert refused.json()["details"] == f"The result contains {rows} rows"


async def test_nulls_left_out(rest: Rest) -> None:
    answer = await rest.get(
        "sites?select=site,name&order=site", accept="application/vnd.pgrst.array+json;nulls=stripped"
    )
    assert answer.json() == [{"site": "HMCE", "name": "CANARY"}, {"site": "WLCE"}]


async def test_csv_is_read_by_a_reader_of_csv(rest: Rest, plain: Connection[Any]) -> None:
    plain.execute(
        "INSERT INTO flux.market_data_types (id, name, description, unit) VALUES (70, %s, %s, '')", ('a"\\b', "x,\r\ny")
    )
    try:
        answer = await rest.get(
            'market_data_types?select=name,"a,b":description,unit&id=in.(1,70)&order=id', accept="text/csv"
        )
    finally:
        plain.execute("DELETE FROM flux.market_data_types WHERE id = 70")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, first, second = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == ["name", "a,b", "unit"]
    assert first[2] == "MW"
    assert second == ['a"\\b', "x,\r\ny", ""]
    empty = await rest.get("sites?site=eq.none&select=site", accept="text/csv")
    assert empty.text == "site\n"


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("none", 404, "PGRST205", "Could not find the table 'flux.none' in the schema cache"),
        ("sites/x", 404, "PGRST125", "Invalid path specified in request URL"),
        ("sites?select=nam", 400, "42703", "column sites.nam does not exist"),
        ("sites?nam=eq.1", 400, "42703", "column sites.nam does not exist"),
        ("sites?order=nam", 400, "42703", "column sites.nam does not exist"),
        ("sites?or=(nam.eq.1)", 400, "42703", "column sites.nam does not exist"),
        ("sites?select=nam->x->>y", 400, "42703", "column sites.nam does not exist"),
        ("sites?select=mg_device_registry(nam)", 400, "42703", "column mg_device_registry.nam does not exist"),
        ("sites?select=site::nothing", 400, "42704", 'type "nothing" does not exist'),
        ("sites?select=site::regclass", 400, "42704", 'type "regclass" does not exist'),
        ("sites?select=market_data_types(id)", 400, "PGRST200", "Could not find a relationship between 'sites' and"),
        (
            "mg_device_registry?select=mg_meter_readings(mg_device_registry(mg_meter_readings(time)))",
            400,
            "PGRST127",
            "'mg_meter_readings' is embedded as a list within a list of itself",
        ),
        ("sites?mg_device_registry.name=eq.1", 400, "PGRST108", "'mg_device_registry' is not an embedded resource"),
        ("sites?order=mg_device_registry(name)", 400, "PGRST108", "'mg_device_registry' is not an embedded resource"),
        (
            "sites?select=mg_device_registry(name)&order=mg_device_registry(name)",
            400,
            "PGRST118",
            "A related order on 'mg_device_registry' is not possible",
        ),
        (
            "sites?select=mg_device_registry(name)&mg_device_registry=eq.1",
            400,
            "PGRST120",
            "Bad operator on the 'mg_device_registry' embedded resource",
        ),
        ("sites?select=site.count()", 400, "PGRST123", "Use of aggregate functions is not allowed"),
        ("mg_device_registry?id=eq.1", 400, "22P02", 'invalid input syntax for type uuid: "1"'),
        ("mg_device_registry?name=is.true", 400, "42804", "argument of IS TRUE must be type boolean, not type text"),
        ("mg_device_registry?id=like.a*", 404, "42883", "operator does not exist: uuid ~~ unknown"),
        ("mg_device_registry?name=match.(", 400, "2201B", "invalid regular expression: parentheses () not balanced"),
        ("mg_device_registry?select=name::int", 400, "22P02", 'invalid input syntax for type integer: "'),
    ],
)
async def test_errors_as_postgrest_gives_them(rest: Rest, path: str, status: int, code: str, message: str) -> None:
    answer = await rest.get(path)
    said = answer.json()
    assert (answer.status_code, said["code"]) == (status, code)
    assert said["message"].startswith(message)
    assert said.keys() == {"code", "message", "details", "hint"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("mg_device_registri", "Perhaps you meant the table 'flux.mg_device_registry'"),
        ("sites?select=nme", 'Perhaps you meant to reference the column "sites.name".'),
        (
            "sites?select=mg_device_registri(name)",
            "Perhaps you meant 'mg_device_registry' instead of 'mg_device_registri'.",
        ),
    ],
)
async def test_hints(rest: Rest, path: str, hint: str) -> None:
    assert (await rest.get(path)).json()["hint"] == hint


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        (
            "sites?select=site,mg_device_registry(count)&order=site",
            [{"site": site, "mg_device_registry": [{"count": n}]} for site, n in (("HMCE", 2), ("WLCE", 3))],
        ),
        (
            "sites?select=site,n:mg_device_registry!inner(count)&n.type=eq.meter&n.name=like.*SOLAR*",
            [{"site": "WLCE", "n": [{"count": 1}]}],
        ),
        ("mg_device_registry?select=count&site=eq.WLCE", [{"count": 3}]),
        ("mg_device_registry?select=n:count()&limit=1&name=eq.nobody", [{"n": 0}]),
        ("mg_device_registry?select=name,sites(count)&name=eq.WLCE-BESS-01&order=name",
         [{"name": "WLCE-BESS-01", "sites": {"count": 1}}]),
    ],
)  # fmt: skip
async def test_rows_are_counted_as_supabase_clients_ask(rest: Rest, path: str, rows: list[dict[str, Any]]) -> None:
    answer = await rest.get(path)
    assert answer.json() == rows
    assert (await rest.get(path, accept="text/csv")).text.count("\n") == len(rows) + 1
    counted = await rest.get(path, identity(Role.AUTHENTICATED, frozenset()))
    assert not any(row.get("count") for row in counted.json())  # whoever sees no rows counts none


async def test_who_may_not_is_told_so(rest: Rest) -> None:
    nobody = await rest.get("sites", ANONYMOUS)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "42501")
    assert nobody.headers["www-authenticate"] == "Bearer"
    edge = await rest.get("device_changes", identity(Role.EDGE, frozenset({"WLCE"})))
    assert (edge.status_code, edge.json()["code"]) == (403, "42501")


async def test_a_fenced_caller_sees_its_sites_through_every_door(rest: Rest) -> None:
    fenced = identity(Role.AUTHENTICATED, frozenset({"WLCE"}))
    for path in (
        "sites?select=*,mg_device_registry(*,device_health(*),mg_bess_readings(*),control_decisions(*))",
        "device_groups?select=mg_device_registry(*)",
        "market_data?select=*,sites(*)",
        "mg_meter_readings?select=*,mg_device_registry(*)",
        "mg_device_registry?name=like.HMCE*",
        "mg_meter_daily_totals",
        "mg_device_registry?select=name,sites()&sites=not.is.null",
    ):
        answer = await rest.get(path, fenced)
        assert answer.status_code == 200, answer.text
        assert "CANARY" not in answer.text
        assert "HMCE" not in answer.text


@pytest.mark.parametrize("profile", ["flux", "public", None])
async def test_profiles(rest: Rest, profile: str | None) -> None:
    answer = await (rest.get("sites", accept_profile=profile) if profile else rest.get("sites"))
    assert answer.status_code == 200
    assert answer.headers.get("content-profile") == profile
    refused = await rest.get("sites", accept_profile="flux_api")
    assert (refused.status_code, refused.json()["code"]) == (406, "PGRST106")


@pytest.mark.parametrize(
    "path",
    [
        "mg_meter_readings?select=time&order=time.desc&time=eq.2026-01-15T13:00:00&limit=1",
        "rpc/market_as_of?types={2}&start_time=2026-01-15T13:00:00&end_time=2026-01-15T13:00:01&select=time&limit=1",
        "rpc/settlement_date?at=2026-01-15T13:00:00",
    ],
)
async def test_times_in_the_zone_that_is_preferred(rest: Rest, path: str) -> None:
    answer = await rest.get(path, prefer="timezone=Europe/Berlin")
    assert answer.status_code == 200, answer.text
    assert answer.headers["preference-applied"] == "timezone=Europe/Berlin"
    if isinstance(answer.json(), list):
        assert answer.json() == [{"time": "2026-01-15T13:00:00+01:00"}]
    assert "+01:00" not in (await rest.get("mg_meter_readings?select=time&limit=1")).text  # for that request alone


async def test_a_time_whose_plus_became_a_blank(rest: Rest) -> None:
    refused = (await rest.get("mg_meter_readings?time=gt.2026-01-15T11:00:00+01:00")).json()
    assert (refused["code"], "%2B" in refused["hint"]) == ("22007", True)


async def test_preferences_that_nobody_knows(rest: Rest) -> None:
    assert (await rest.get("sites", prefer="count=exactly")).status_code == 200
    refused = await rest.get("sites", prefer="handling=strict, count=exactly")
    assert (refused.status_code, refused.json()["code"]) == (400, "PGRST122")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("application/json;q=0.5,text/csv", "text/csv"),
        ("application/json, application/vnd.pgrst.array+json;nulls=stripped;q=0.1", "application/json"),
        ("image/png", None),
        ("text/csv;q=0", None),
        ("application/vnd.pgrst.plan+json", None),
    ],
)
async def test_accept(rest: Rest, accept: str, expected: str | None) -> None:
    answer = await rest.get("sites", accept=accept)
    if expected is None:
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST107")
    else:
        assert answer.headers["content-type"].startswith(expected)


@pytest.mark.parametrize(
    ("role", "methods"),
    [
        (Role.AUTHENTICATED, "OPTIONS, GET, HEAD"),
        (Role.OPERATOR, "OPTIONS, GET, HEAD, POST, PUT, PATCH"),
        (Role.ANON, "OPTIONS"),
    ],
)
async def test_options_say_what_a_role_may(rest: Rest, role: Role, methods: str) -> None:
    async with rest.client(identity(role)) as client:
        answer = await client.options("mg_device_registry")
        assert (answer.status_code, answer.headers["allow"]) == (200, methods)
        refused = await client.request("TRACE", "mg_device_registry")
        assert (refused.status_code, refused.json()["code"]) == (405, "PGRST117")
        assert "GET" in refused.headers["allow"]
