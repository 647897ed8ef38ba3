"""The edge's side of the API: who may, for which site, in which form; real keys, the real fence."""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import AsyncConnection
from tests.api.fleet import fill_fleet
from tests.api.live import LiveServer, live_server_on
from tests.edge.fakes import kept_decision, meter_reading

from flux.model import DeviceId, HealthRecord, HealthStatus
from flux.store.batches import COMPACT, LINES, encode_batch
from flux.store.encoding import Recorded

NOW = "2026-01-15T12:30:00Z"


@pytest.fixture
def live(dsn: str) -> Iterator[LiveServer]:
    fill_fleet(dsn)
    with live_server_on(dsn) as server:
        yield server


def ids(live: LiveServer) -> dict[str, str]:
    with psycopg.connect(live.dsn) as conn:
        return {name: str(key) for name, key in conn.execute("SELECT name, id FROM flux.mg_device_registry").fetchall()}


def ask(live: LiveServer, method: str, path: str, role: str = "edge", **more: Any) -> httpx.Response:
    sites = more.pop("sites", ["WLCE"])
    headers = live.headers(role, sites=sites) | more.pop("headers", {})
    return httpx.request(method, f"{live.url}/edge/v1{path}", headers=headers, timeout=20, **more)


def push(live: LiveServer, content: bytes, kind: str = LINES, **more: Any) -> httpx.Response:
    return ask(live, "POST", "/push", content=content, headers={"Content-Type": kind} | more.pop("headers", {}), **more)


def line(device: str, **values: Any) -> bytes:
    return json.dumps({"kind": "meter", "device_id": device, "time": NOW, **values}).encode() + b"\n"


def test_an_edge_stores_its_own_sites_readings_and_no_other_site_exists_for_it(live: LiveServer) -> None:
    known = ids(live)
    mine, theirs = known["WLCE-GRID-METER"], known["HMCE-GRID-METER"]
    body = line(mine, power_total_active=1.5) + line(theirs, power_total_active=2) + line(mine, power_total_active=9)
    answer = push(live, gzip.compress(body), headers={"Content-Encoding": "gzip"}).json()
    assert (answer["stored"], answer["duplicates"], answer["rejected"]) == (1, 0, 2)
    reasons = {one["index"]: one["reason"] for one in answer["refusals"]}
    assert reasons == {1: "unknown_device", 2: "conflict"}
    again = push(live, line(mine, power_total_active=1.5)).json()
    assert (again["stored"], again["duplicates"]) == (0, 1)
    with psycopg.connect(live.dsn) as conn:
        rows = conn.execute("SELECT device_id FROM flux.mg_meter_readings WHERE time = %s", (NOW,)).fetchall()
    assert rows == [(UUID(mine),)]


def test_decisions_and_health_of_another_site_are_refused_too(live: LiveServer) -> None:
    known = {name: DeviceId(UUID(key)) for name, key in ids(live).items()}
    health = [
        HealthRecord(device_id=known[name], time=meter_reading(1).time, status=HealthStatus.ONLINE)
        for name in ("WLCE-BESS-01", "HMCE-BESS-01")
    ]
    batch: list[Recorded] = [kept_decision(1, known["WLCE-BESS-01"]), kept_decision(1, known["HMCE-BESS-01"]), *health]
    at = {"control_decisions": kept_decision(1).time.microsecond, "device_health": meter_reading(1).time.microsecond}
    answer = push(live, encode_batch(batch), COMPACT).json()
    assert (answer["stored"], answer["rejected"]) == (2, 2)
    with psycopg.connect(live.dsn) as conn:
        for table, column in (("control_decisions", "time"), ("device_health", "timestamp")):
            query = f"SELECT device_id FROM flux.{table} WHERE {column} = %s"
            found = conn.execute(query.encode(), (meter_reading(1).time.replace(microsecond=at[table]),)).fetchall()
            assert found == [(known["WLCE-BESS-01"],)]


def test_registry_and_feed_are_the_sites_own(fleet_server: LiveServer) -> None:
    live = fleet_server
    body = ask(live, "GET", "/registry").json()
    assert {device["site"] for device in body["devices"]} == {"WLCE"}
    assert ask(live, "GET", "/registry", params={"after": body["cursor"]}).status_code == 204
    feed = ask(live, "GET", "/control").json()
    assert "CANARY" not in json.dumps(feed)
    assert "CANARY" not in json.dumps(body)
    theirs = ids(live)["HMCE-GRID-METER"]
    said = {"state": "active", "reason": "mine now"}
    assert ask(live, "POST", f"/devices/{theirs}/state", json=said).json()["error"] == "not_found"


@pytest.mark.parametrize(
    ("role", "sites", "headers", "status", "words"),
    [
        ("authenticated", ["WLCE"], {}, 403, "may not do what an edge does"),
        ("operator", ["WLCE"], {}, 403, "may not do what an edge does"),
        ("edge", ["WLCE"], {"Flux-Site": "HMCE"}, 403, "the key is not for site HMCE"),
        ("edge", ["WLCE"], {"Flux-Site": "WLCE"}, 200, ""),
        ("service", None, {}, 422, "name yours in the header Flux-Site"),
        ("service", None, {"Flux-Site": "HMCE"}, 200, ""),
    ],
)
def test_who_may(
    fleet_server: LiveServer, role: str, sites: list[str] | None, headers: dict[str, str], status: int, words: str
) -> None:
    answer = ask(fleet_server, "GET", "/registry", role, sites=sites, headers=headers)
    assert answer.status_code == status
    assert words in answer.text
    assert httpx.get(f"{fleet_server.url}/edge/v1/registry").status_code == 401


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"{", LINES, 422, "line 1 can't be read"),
        (b"[]", LINES, 422, "a record is an object"),
        (b'\n{"kind": "dance"}', LINES, 422, "line 2 can't be read: kind 'dance': it is meter, bess"),
        (b'{"kind": ["meter"]}', LINES, 422, "it is meter, bess"),
        (b'{"kind": "meter", "time": "2026-01-15T12:30:00Z"}', LINES, 422, "'device_id' is missing"),
        (line("00000000-0000-0000-0000-000000000000", soe=4), LINES, 422, "MeterReading has no soe"),
        (line("00000000-0000-0000-0000-000000000000", frequency="50"), LINES, 422, "is not a number"),
        (b'{"kind": "meter", "device_id": "x", "time": "2026-01-15T12:30:00"}', LINES, 422, "needs its offset"),
        (b'{"kind": "health"}', LINES, 422, "line 1 can't be read"),
        (b"[" * 100_000, LINES, 422, "line 1 can't be read"),
        (b"FLX1", COMPACT, 422, "the header of the batch can't be read"),
        (b"FLX1\xff\xff\xff\xff{}", COMPACT, 422, "ends in the middle"),
        (b"nonsense", COMPACT, 422, "does not begin with FLX1"),
        (encode_batch([meter_reading(1)])[:-3], COMPACT, 422, "ends in the middle"),
        (encode_batch([]) + b"\x03\0\0\0abc", COMPACT, 422, "record 0 of the batch can't be read"),
        (b"", "text/plain", 415, "Content-Type is"),
        (b"", LINES, 200, '"stored":0'),
    ],
)
def test_what_can_not_be_read_is_refused_whole(
    fleet_server: LiveServer, content: bytes, kind: str, status: int, words: str
) -> None:
    answer = push(fleet_server, content, kind)
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_a_revoked_key_is_refused_at_the_next_request(live: LiveServer) -> None:
    key_id = str(uuid4())
    with psycopg.connect(live.dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO flux.api_keys (id, name, role, sites, created_by) VALUES (%s, 'e', 'edge', '{WLCE}', 't')",
            (key_id,),
        )
        headers = {"apikey": live.key("edge", ["WLCE"], jti=key_id)}
        cursor = httpx.get(f"{live.url}/edge/v1/registry", headers=headers).json()["cursor"]
        conn.execute("UPDATE flux.api_keys SET revoked_at = now(), revoked_by = 't' WHERE id = %s", (key_id,))
    for path in ("/registry", f"/registry?after={cursor}&wait=5", "/time"):
        answer = httpx.get(f"{live.url}/edge/v1{path}", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "key")


async def test_what_a_session_became_is_undone(live: LiveServer, db: AsyncConnection[Any]) -> None:
    """A push commits transactions of its own: the connection must be nobody's again when it is back in the pool."""
    mine = ids(live)["WLCE-GRID-METER"]
    for second in range(12):
        body = json.dumps(
            {"kind": "meter", "device_id": mine, "time": f"2026-01-15T13:00:{second:02}Z", "frequency": 50.0}
        )
        assert push(live, body.encode()).json()["stored"] == 1
        service = ask(live, "GET", "/registry", "service", sites=None, headers={"Flux-Site": "HMCE"})
        assert {device["site"] for device in service.json()["devices"]} == {"HMCE"}


def test_where_the_public_may_do_nothing_an_edge_still_pushes(dsn: str) -> None:
    """As in the embedded server: ingest stages what it stores in a temporary table."""
    fill_fleet(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        database = psycopg.sql.Identifier(conn.info.dbname)
        conn.execute(psycopg.sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    with live_server_on(dsn) as live:
        assert push(live, line(ids(live)["WLCE-GRID-METER"], frequency=50.0)).json()["stored"] == 1
