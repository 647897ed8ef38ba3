"""Every typed endpoint, walked: nothing of another site comes out of any of them, and readers change nothing.

The walk is over the application's own description, so that an endpoint that is added is walked too.
"""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from tests.api.fleet import CANARY
from tests.api.live import LiveServer
from tests.support import NOON

from flux.api.typed.operations import all_operations

EVERYTHING = {
    "start": (NOON - timedelta(days=1)).isoformat(),
    "end": (NOON + timedelta(days=1)).isoformat(),
    "everything": "true",
    "limit": "1000",
}
BODIES: dict[str, Any] = {
    "register_device": {"name": "HMCE-NEW", "type": "meter", "site": "HMCE"},
    "change_metadata": {"set": {"note": "mine"}},
    "take_device_to": {"to": "failed"},
    "start_maintenance": {"reason": "mine"},
    "end_maintenance": {},
    "decommission_device": {"reason": "mine"},
    "apply_template_to": {"template": "acuvim2_standard", "filter": "site=HMCE,type=meter", "commit": True},
    "create_group": {"name": "mine", "site": "HMCE"},
    "add_member": {"role": "backup"},
    "plan_maintenance": {"device": "HMCE-BESS-01", "every": "daily 02:00", "lasts": "1h"},
    "scan_site": {"ranges": ["192.168.1.0/24"]},
    "test_device": {},
    "set_point": {"power_kw": None},
    "compare_found": {"register_new": True, "readdress": True},
    "stop_site": {"reason": "mine"},
    "resume_site": None,
    "add_step": {"action": "charge_max", "start": "2037-01-01T00:00Z", "end": "2037-01-02T00:00Z"},
    "replace_schedule": {"steps": []},
    "add_envelope": {"start": "2037-01-01T00:00Z", "end": "2037-01-02T00:00Z", "export_kw": 1},
    "push_plan": {"text": "controller: {}"},
    "rule_on_counter": {"time": NOON.isoformat(), "ruling": "as_judged"},
    "withdraw_ruling": {"time": NOON.isoformat()},
    "mark_values": {"metric": "power_total_active", "time": NOON.isoformat()},
    "lift_marks": {"metric": "power_total_active", "time": NOON.isoformat()},
    "set_retention": {"keep": "90d"},
}
MUTATING = {"POST", "PUT", "PATCH", "DELETE"}


@pytest.fixture(scope="module")
def seeded(fleet_server: LiveServer) -> LiveServer:
    """The fleet, and of HMCE what the fleet does not have: a stop, a schedule, an envelope, a job, a window, a gap."""
    with psycopg.connect(fleet_server.dsn, autocommit=True) as sql:
        sql.execute("INSERT INTO flux.site_stops (site, actor, reason) VALUES ('HMCE', 'CANARY', 'CANARY')")
        sql.execute(
            """INSERT INTO flux.dispatch_schedules (site, source, position, starts_at, ends_at, action)
               VALUES ('HMCE', 'CANARY', 0, '2037-01-01', '2037-01-02', 'charge_max')"""
        )
        sql.execute(
            """INSERT INTO flux.site_envelopes (site, source, starts_at, ends_at, import_limit_kw)
               VALUES ('HMCE', 'CANARY', '2037-01-01', '2037-01-02', 7)"""
        )
        sql.execute(
            """INSERT INTO flux.edge_jobs (site, kind, args, created_by, expires_at)
               VALUES ('HMCE', 'stop', '{"reason": "CANARY"}', 'CANARY', now() + interval '1 day')"""
        )
        sql.execute(
            """INSERT INTO flux.maintenance_windows (device_id, every, timezone, duration, reason, created_by)
               SELECT id, 'daily 02:00', 'Europe/London', '1h', 'CANARY', 'CANARY' FROM flux.mg_device_registry
               WHERE name = 'HMCE-BESS-01'"""
        )
        sql.execute(
            """INSERT INTO flux.reading_marks (device_id, time, metric, reason, value, marked_by, note)
               SELECT id, %s, 'power_total_active', 'operator', 1, 'CANARY', 'CANARY' FROM flux.mg_device_registry
               WHERE name = 'HMCE-GRID-METER'""",
            (NOON,),
        )
        sql.execute(
            """INSERT INTO flux.alerts (key, severity, site, text, raised_at)
               VALUES ('canary', 'warning', 'HMCE', 'CANARY', now())"""
        )
        sql.execute(
            "INSERT INTO flux.site_plans (site, hash, body, actor) VALUES ('HMCE', 'canary0', %s, 'CANARY')",
            ('{"of": "CANARY"}',),
        )
    return fleet_server


def routes(server: LiveServer) -> list[tuple[str, str, str]]:
    """Name, method and path of every endpoint under /v1."""
    found = []
    for path, methods in server.app.openapi()["paths"].items():
        if path.startswith("/v1/") and not path.startswith("/v1/webhooks"):
            found += [(about["operationId"], method.upper(), path) for method, about in methods.items()]
    return found


def foreign(server: LiveServer, path: str) -> list[str]:
    """The path with everything that is of HMCE in the place of its parameters; twice for a device: by name and id."""
    with psycopg.connect(server.dsn) as sql:
        ((bess, meter),) = sql.execute(
            """SELECT min(id::text) FILTER (WHERE name = 'HMCE-BESS-01'), min(id::text) FILTER (WHERE type = 'meter')
               FROM flux.mg_device_registry WHERE site = 'HMCE'"""
        ).fetchall()
        ((job,),) = sql.execute("SELECT id::text FROM flux.edge_jobs WHERE site = 'HMCE'").fetchall()
        ((window,),) = sql.execute("SELECT id::text FROM flux.maintenance_windows LIMIT 1").fetchall()
    places = {
        "site": ["HMCE"],
        "name": ["HMCE-BESS-01", "HMCE-GRID-METER", bess, meter],
        "job": [job],
        "window": [window],
        "group": ["HMCE CANARY"],
        "source": ["CANARY"],
        "level": ["5m"],
        "hash": ["a-plan", "canary0"],
        "type": ["4"],
        "counter": ["energy_imported_active"],
        "template": ["powerpack_bess"],
        "table": ["mg_meter_readings"],
    }
    paths = [path]
    for name in re.findall(r"\{(\w+)\}", path):
        paths = [one.replace(f"{{{name}}}", quote(value)) for one in paths for value in places[name]]
    return paths


def everything(server: LiveServer) -> dict[str, Any]:
    """What is in every table that a caller could change."""
    with psycopg.connect(server.dsn) as sql:
        names = sql.execute(
            """SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'flux'::regnamespace AND c.relkind = 'r'
                 AND NOT c.relispartition AND c.relname NOT IN ('api_audit', 'api_keys', 'edge_registry_seen')"""
        ).fetchall()
        query = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM flux.{} t"
        return {
            name: sql.execute(psycopg.sql.SQL(query).format(psycopg.sql.Identifier(name))).fetchall()
            for (name,) in names
        }


def test_every_operation_is_served_once(fleet_server: LiveServer) -> None:
    served = [name for name, _, _ in routes(fleet_server)]
    assert {one.name for one in all_operations()} <= set(served)
    assert len(set(served)) == len(served)


def test_who_may_see_every_site_does_see_it(seeded: LiveServer) -> None:
    """Else the walk below would find nothing, whatever came out."""
    shown = set()
    with httpx.Client(base_url=seeded.url, headers=seeded.headers("service")) as client:
        for name, method, path in routes(seeded):
            if method == "GET" and any(
                CANARY in client.get(concrete, params={**EVERYTHING, "site": "HMCE"}).text
                for concrete in foreign(seeded, path)
            ):
                shown.add(name)
    assert shown >= {
        "list_devices",
        "show_device",
        "list_maintenance",
        "list_jobs",
        "show_job",
        "control_state",
        "show_schedule",
        "show_envelopes",
        "show_pushed_plan",
        "list_decisions",
        "device_health",
        "list_alerts",
        "list_marks",
        "list_groups",
        "market_values",
    }


@pytest.mark.parametrize(
    "role",
    [
        "service",
        pytest.param("authenticated", marks=pytest.mark.long),
        pytest.param("operator", marks=pytest.mark.long),
    ],
)
def test_nothing_of_another_site_comes_out(seeded: LiveServer, role: str) -> None:
    headers = seeded.headers(role, ["WLCE"])
    with httpx.Client(base_url=seeded.url, headers=headers) as client:
        for name, method, path in routes(seeded):
            if method != "GET":
                continue
            for concrete in foreign(seeded, path):
                for site in ({},) if "{" in path else ({}, {"site": "HMCE"}, {"device": "HMCE-GRID-METER"}):
                    answer = client.get(concrete, params={**EVERYTHING, **site})
                    assert answer.status_code < 500, (name, concrete, answer.text)
                    said = answer.text.replace("HMCE CANARY", "").replace("'HMCE-", "").replace("'HMCE'", "")
                    assert CANARY not in said, (name, concrete, answer.text)
                    if answer.status_code == 200 and "{" in path and "HMCE" in concrete:
                        pytest.fail(f"{name} {concrete} answers: {answer.text[:200]}")
                    if answer.status_code == 200:
                        assert "HMCE" not in answer.text, (name, concrete, answer.text)


def test_nothing_of_another_site_is_changed(seeded: LiveServer) -> None:
    before = everything(seeded)
    with httpx.Client(base_url=seeded.url, headers=seeded.headers("service", ["WLCE"])) as client:
        for name, method, path in routes(seeded):
            if method not in MUTATING or path.startswith("/v1/import"):
                continue
            for concrete in foreign(seeded, path):
                answer = client.request(method, concrete, json=BODIES.get(name))
                assert answer.status_code in (403, 404), (name, concrete, answer.status_code, answer.text)
                assert CANARY not in answer.text.replace("HMCE CANARY", ""), (name, concrete, answer.text)
    assert everything(seeded) == before


@pytest.mark.parametrize(("role", "expected"), [("anon", 403), ("authenticated", 403), ("edge", 403)])
def test_who_may_only_read_changes_nothing(seeded: LiveServer, role: str, expected: int) -> None:
    before = everything(seeded)
    with httpx.Client(base_url=seeded.url, headers=seeded.headers(role, ["HMCE", "WLCE"][:1])) as client:
        for name, method, path in routes(seeded):
            if method not in MUTATING:
                continue
            concrete = foreign(seeded, path)[0]
            body = BODIES.get(name)
            answer = client.request(method, concrete, json=body)
            assert answer.status_code == expected, (name, concrete, answer.status_code, answer.text)
    assert everything(seeded) == before


def test_readings_of_a_stranger_are_not_kept_for_later(seeded: LiveServer) -> None:
    """Else somebody who may see every site would store them when trying what was refused again."""
    with psycopg.connect(seeded.dsn) as sql:
        ((device,),) = sql.execute("SELECT id FROM flux.mg_device_registry WHERE name = 'HMCE-GRID-METER'").fetchall()
    file = f"time,device_id,power_total_active\n2026-01-15T12:30:00Z,{device},666\n"
    file += "2026-01-15T12:31:00Z,,1\n"
    before = everything(seeded)
    answer = httpx.post(f"{seeded.url}/v1/import/readings", content=file, headers=seeded.headers("service", ["WLCE"]))
    assert answer.status_code == 200, answer.text
    assert answer.json()["rejected"] == {"unknown_device": 2}
    assert everything(seeded) == before


def test_a_key_that_was_revoked_opens_nothing(seeded: LiveServer) -> None:
    with psycopg.connect(seeded.dsn, autocommit=True) as sql:
        ((key_id,),) = sql.execute(
            """INSERT INTO flux.api_keys (name, role, created_by) VALUES ('gone', 'service', 'test') RETURNING id"""
        ).fetchall()
        headers = seeded.headers("service", jti=key_id)
        assert httpx.get(f"{seeded.url}/v1/devices", headers=headers).status_code == 200
        sql.execute("UPDATE flux.api_keys SET revoked_at = now(), revoked_by = 'test' WHERE id = %s", (key_id,))
    answer = httpx.get(f"{seeded.url}/v1/devices", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "key")
    assert httpx.get(f"{seeded.url}/v1/export/readings", headers=headers).status_code == 401
