"""What keeps the platform running, over HTTP: for keys of role service that see every site."""

import httpx
import psycopg
import pytest
from tests.api.live import LiveServer


@pytest.mark.parametrize("sites", [None, ["WLCE"]])
def test_retention_is_set_by_who_sees_every_site(live_server: LiveServer, sites: list[str] | None) -> None:
    with httpx.Client(base_url=live_server.url, headers=live_server.headers("service", sites)) as client:
        answer = client.put("/v1/service/retention/mg_meter_readings", json={"keep": "180d"})
        status = client.get("/v1/service/storage")
    if sites is not None:
        assert (answer.status_code, status.status_code) == (403, 403)
        return
    assert answer.json() == {"table": "mg_meter_readings", "keep": "180 days"}
    kept = {one["table_name"]: one["keep"] for one in status.json()["tables"]}
    assert kept["mg_meter_readings"] == "180 days"
    with psycopg.connect(live_server.dsn) as sql:
        noted = sql.execute("SELECT name, role, object, verb, request_id IS NOT NULL FROM flux.api_audit").fetchall()
    assert noted == [("test service", "service", "set_retention(mg_meter_readings, 180 days)", "EXECUTE", True)]


@pytest.mark.parametrize(
    ("table", "keep", "status"),
    [("nothing", "180d", 404), ("mg_meter_readings", "soon", 422), ("mg_meter_readings", "20y", 409)],
)
def test_what_retention_cannot_be(live_server: LiveServer, table: str, keep: str, status: int) -> None:
    answer = httpx.put(
        f"{live_server.url}/v1/service/retention/{table}", json={"keep": keep}, headers=live_server.headers("service")
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
