"""Every door of the server, with every kind of key that must not open it."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from tests.api.live import SECRET, LiveServer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

DOORS = (
    ("GET", "/rest/v1/"),
    ("GET", "/rest/v1/sites"),
    ("HEAD", "/rest/v1/mg_meter_readings"),
    ("POST", "/rest/v1/market_data"),
    ("PATCH", "/rest/v1/sites"),
    ("DELETE", "/rest/v1/device_groups"),
    ("POST", "/rest/v1/rpc/get_meter_readings_5m"),
    ("GET", "/v1/devices"),
    ("POST", "/v1/devices"),
    ("GET", "/metrics"),
    ("POST", "/edge/v1/readings"),
    ("GET", "/no/such/path"),
)


def _part(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def _payload(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return payload


def _forged(good: str) -> str:
    """A key of one site whose payload was changed to a service key of all."""
    head, _, signature = good.split(".")
    claims = {name: value for name, value in _payload(good).items() if name != "sites"} | {"role": "service"}
    return f"{head}.{_part(claims)}.{signature}"


def _unsigned(good: str) -> str:
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{good.split('.')[1]}."


def _signed_by_another(good: str) -> str:
    return jwt.encode(_payload(good), "a secret that is long enough but not ours", algorithm="HS256")


def _expired(good: str) -> str:
    then = datetime.now(UTC) - timedelta(hours=2)
    return jwt.encode(_payload(good) | {"iat": then, "exp": then + timedelta(hours=1)}, SECRET, algorithm="HS256")


def _of_no_role(good: str) -> str:
    return jwt.encode(_payload(good) | {"role": "postgres"}, SECRET, algorithm="HS256")


def _of_an_unknown_key(good: str) -> str:
    return jwt.encode(_payload(good) | {"jti": str(uuid.uuid4())}, SECRET, algorithm="HS256")


BAD: tuple[Callable[[str], str], ...] = (
    _forged,
    _unsigned,
    _signed_by_another,
    _expired,
    _of_no_role,
    lambda good: good[:-6] + "AAAAAA",
    lambda good: good.rpartition(".")[0],
    lambda good: "sb_publishable_what_it_is_not",
    lambda good: "é§",
)
NAMES = ("forged", "unsigned", "signed by another", "expired", "of no role", "changed", "cut off", "text", "bytes")


@pytest.mark.parametrize("spoil", BAD, ids=NAMES)
def test_no_door_opens_to_a_bad_key(fleet_server: LiveServer, spoil: Callable[[str], str]) -> None:
    bad = spoil(fleet_server.key("authenticated", ["WLCE"]))
    headers = {b"Authorization": f"Bearer {bad}".encode("latin-1")}
    with httpx.Client(base_url=fleet_server.url) as http:
        statuses = {(verb, path): http.request(verb, path, headers=headers).status_code for verb, path in DOORS}
    assert set(statuses.values()) == {401}, statuses


def test_no_socket_opens_to_a_bad_key(fleet_server: LiveServer) -> None:
    good = fleet_server.key("authenticated", ["WLCE"])
    address = fleet_server.url.replace("http", "ws", 1) + "/realtime/v1/websocket?vsn=1.0.0&apikey="
    for spoil, name in zip(BAD[:-1], NAMES, strict=False):
        with pytest.raises(InvalidStatus) as refused, connect(address + spoil(good)):
            pytest.fail(name)
        assert refused.value.response.status_code in {401, 403}, name


@pytest.fixture
def kept_key(fleet_server: LiveServer) -> Iterator[uuid.UUID]:
    """A key as ``flux keys create`` keeps it."""
    key_id = uuid.uuid4()
    with psycopg.connect(fleet_server.dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO flux.api_keys (id, name, role, sites, created_by) VALUES (%s, 'kept', 'service', %s, 'test')",
            (key_id, ["WLCE"]),
        )
        yield key_id
        conn.execute("DELETE FROM flux.api_keys WHERE id = %s", (key_id,))


def test_a_revoked_key_is_refused_at_the_next_request(fleet_server: LiveServer, kept_key: uuid.UUID) -> None:
    headers = fleet_server.headers("service", ["WLCE"], jti=str(kept_key))
    reading = [
        ("GET", "/rest/v1/sites"),
        ("GET", "/rest/v1/"),
        ("OPTIONS", "/rest/v1/sites"),
        ("POST", "/rest/v1/rpc/get_meter_readings_5m"),
        ("GET", "/v1/devices"),
        ("GET", "/v1/export/readings"),
        ("GET", "/edge/v1/time"),
        ("GET", "/metrics"),
    ]
    with httpx.Client(base_url=fleet_server.url, headers=headers) as http:
        assert {http.request(verb, path).status_code for verb, path in reading} == {200}
        with psycopg.connect(fleet_server.dsn, autocommit=True) as conn:
            conn.execute("UPDATE flux.api_keys SET revoked_at = now(), revoked_by = 'test' WHERE id = %s", (kept_key,))
        assert {http.request(verb, path).status_code for verb, path in reading} == {401}


def test_a_key_that_is_not_kept_any_more_is_refused(fleet_server: LiveServer) -> None:
    unknown = _of_an_unknown_key(fleet_server.key("service"))
    answer = httpx.get(f"{fleet_server.url}/rest/v1/sites", headers={"apikey": unknown})
    assert answer.status_code == 401


def test_a_group_of_another_site_is_not_told_of(fleet_server: LiveServer) -> None:
    """Not even to who knows its id: whose it is stood in the error."""
    with psycopg.connect(fleet_server.dsn) as conn:
        ((group,),) = conn.execute("SELECT id::text FROM flux.device_groups WHERE site = 'HMCE'").fetchall()
        ((device,),) = conn.execute(
            "SELECT id::text FROM flux.mg_device_registry WHERE name = 'WLCE-BESS-01'"
        ).fetchall()
    answer = httpx.post(
        f"{fleet_server.url}/rest/v1/device_group_members",
        json={"group_id": group, "device_id": device},
        headers=fleet_server.headers("operator", ["WLCE"]),
    )
    assert answer.status_code == 403
    assert "HMCE" not in answer.text
