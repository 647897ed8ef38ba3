"""Jobs over HTTP: ordered once however often they are sent, compared with the registry of their own site only."""

from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb
from tests.api.live import LiveServer
from tests.support import add_device

from flux.store.db import connect

FOUND = {
    "host": "192.168.1.20",
    "port": 502,
    "unit": 1,
    "response_ms": 3.0,
    "type": "meter",
    "template": "acuvim2_standard",
}


@pytest.fixture
async def wlce(live_server: LiveServer) -> LiveServer:
    async with await connect(live_server.dsn, autocommit=True) as conn:
        await add_device(conn, "WLCE-BESS-01", "bess")
        there = {"host": "192.168.1.20", "port": 502, "modbus_address": 1, "serial_number": "A1"}
        await add_device(conn, "HMCE-GRID-METER", site="HMCE", metadata=there)
    return live_server


def ask(live: LiveServer, path: str, body: dict[str, Any], key: str | None = None, **who: Any) -> httpx.Response:
    headers = live.headers("operator", ["WLCE"], **who) | ({"Idempotency-Key": key} if key is not None else {})
    return httpx.post(live.url + path, json=body, headers=headers)


def test_a_request_with_an_idempotency_key_is_one_job_for_its_caller(wlce: LiveServer) -> None:
    path, body = "/v1/devices/WLCE-BESS-01/set-point", {"power_kw": -20, "lasts": "15m"}
    first, again = ask(wlce, path, body, "a-1"), ask(wlce, path, body, "a-1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    left = datetime.fromisoformat(first.json()["args"]["until"]) - datetime.now(UTC)
    assert 14 < left.total_seconds() / 60 <= 15
    other = ask(wlce, path, body | {"power_kw": -30}, "a-1")
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    assert ask(wlce, path, body, "a-1", name="ben").json()["id"] != first.json()["id"]
    assert ask(wlce, path, body).json()["id"] != ask(wlce, path, body).json()["id"]
    for wrong in ("", "x" * 201, "with blanks"):
        assert ask(wlce, path, body, wrong).status_code == 422
    both = ask(wlce, path, body | {"until": "2037-01-01T00:00Z"})
    assert (both.status_code, both.json()["message"]) == (422, "the body: give until or lasts, not both")


def test_what_a_site_found_is_compared_with_devices_of_that_site(wlce: LiveServer) -> None:
    """Another site's network has the same private addresses, and its devices are not this key's."""
    job = ask(wlce, "/v1/sites/WLCE/scans", {"ranges": ["192.168.1.0/24"]}).json()["id"]
    path = f"/v1/jobs/{job}/found"
    assert ask(wlce, path, {}).status_code == 409, "it has not run"
    with psycopg.connect(wlce.dsn, autocommit=True) as sql:
        sql.execute(
            """UPDATE flux.edge_jobs SET taken_at = now(), taken_by = 'a', taken_run = '1', finished_at = now(),
               outcome = 'done', result = %s""",
            (Jsonb({"asked": 1, "found": [FOUND | {"serial_number": "A1"}], "problems": [], "left_out": []}),),
        )
    for _ in range(2):  # with a key of every site, too
        compared = httpx.post(wlce.url + path, json={}, headers=wlce.headers("operator")).json()
        assert [(one["standing"], one["name"]) for one in compared["found"]] == [("new", "WLCE-meter-1")]
    registered = ask(wlce, path, {"register_new": True}).json()["changed"]
    assert [(one["name"], one["site"]) for one in registered] == [("WLCE-meter-1", "WLCE")]
    assert [one["standing"] for one in ask(wlce, path, {"register_new": True}).json()["found"]] == ["known"]
    assert httpx.post(wlce.url + path, json={}, headers=wlce.headers("operator", ["HMCE"])).status_code == 404


def test_an_error_in_a_session_does_not_cost_its_connection(wlce: LiveServer) -> None:
    def server_sessions() -> set[int]:
        with psycopg.connect(wlce.dsn) as sql:
            found = sql.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'flux serve'").fetchall()
        return {pid for (pid,) in found}

    headers = wlce.headers("service", ["WLCE"])
    with httpx.Client(base_url=wlce.url, headers=headers) as client:
        client.get("/v1/devices")
        before = server_sessions()
        for _ in range(5):
            assert client.get("/v1/export/readings", params={"device": "HMCE-GRID-METER"}).status_code == 404
            assert [one["site"] for one in client.get("/v1/devices").json()] == ["WLCE"]
        assert before <= server_sessions()
    foreign = httpx.get(f"{wlce.url}/v1/devices", headers=wlce.headers("service", ["HMCE"])).json()
    assert [one["site"] for one in foreign] == ["HMCE"]
