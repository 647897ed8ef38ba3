"""`flux devices`, `groups` and `maintenance` as they are typed, rightly and wrongly; API, CLI and SQL agree."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from tests.api.live import live_server_on
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import FluxError

Run = Callable[[str], tuple[int, str]]
"""A command line; its exit code and what it says."""
BESS = {"host": "127.0.0.1", "template": "powerpack_bess", "capacity_kwh": 500}


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(line: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
        error = result.exception
        if isinstance(error, FluxError):
            return error.exit_code, str(error)
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return result.exit_code, result.output

    return run


@pytest.fixture
def sql(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO flux.mg_device_registry (name, type, site, metadata)
               VALUES ('WLCE-BESS-01', 'bess', 'WLCE', %s)""",
            (Jsonb(BESS),),
        )
        connection.execute("INSERT INTO flux.device_groups (name, site, type) VALUES ('FLEET', 'WLCE', 'control')")
        yield connection


def everything(sql: psycopg.Connection[Any]) -> list[Any]:
    tables = ("mg_device_registry", "device_events", "device_changes", "device_groups", "device_group_members")
    queries = [f"SELECT to_jsonb(t) FROM flux.{name} t ORDER BY t::text" for name in (*tables, "maintenance_windows")]
    return [sql.execute(query.encode()).fetchall() for query in queries]


WRONG = [
    ("devices apply-template --template powerpack_bess --filter type", 2, "'type' is no key=value"),
    ("devices apply-template --template powerpack_bess --filter type=bess,type=meter", 2, "type is there twice"),
    ("devices apply-template --template powerpack_bess --filter type=battery", 2, "type is one of bess, meter"),
    ("devices apply-template --template powerpack_bess --filter site=HMCE --commit", 3, "no device matches"),
    (
        "devices apply-template --template acuvim2_standard --filter type=bess --commit",
        2,
        "is for a meter, not for",
    ),
    ("devices apply-template --template nobodys.yaml --filter type=bess --commit", 2, "nobodys.yaml: No such file"),
    ("devices scan 192.168.1.0/33", 2, "not a network or address"),
    ("devices scan 10.0.0.0/16", 5, "65,536 addresses are more than 4,096"),
    ("devices scan 8.8.8.8", 5, "is not a private or loopback range"),
    ("devices set WLCE-BESS-01 capacity_kwh=lots", 2, "metadata capacity_kwh = 'lots'"),
    ("devices set WLCE-BESS-01 gap_limit=soon", 2, "metadata gap_limit = 'soon'"),
    ("devices set WLCE-BESS-01 polling_interval=99999999999h", 2, "metadata polling_interval"),
    ("devices set WLCE-BESS-01 counter_widths=5", 2, "metadata counter_widths = 5"),
    ("devices set WLCE-BESS-01 --unchanged-since 2020-01-01T00:00Z model=X", 4, "somebody changed it at"),
    ("devices add M --type meter --site WLCE --set storage_of=WLCE-BESS-01", 2, "M: metadata storage_of is for"),
    ("devices add WLCE-BESS-01 --type bess --site WLCE", 4, "a device of this name is registered already"),
    ("devices test VANISHED", 3, "no device 'VANISHED'"),
    ("devices decommission VANISHED --reason replaced", 3, "no device 'VANISHED'"),
    ("devices maintenance end WLCE-BESS-01", 5, "it is not in maintenance, it is testing"),
    ("devices maintenance start WLCE-BESS-01 --reason x --for 99999999999999d", 2, "is not a duration"),
    ("devices maintenance plan WLCE-BESS-01 --every 'funday 02:00' --for 2h", 2, "'funday' is not a day"),
    ("devices maintenance plan WLCE-BESS-01 --at 2020-01-01T00:00 --for 2h", 2, "that is over already"),
    ("groups create FLEET", 4, "there is a group of this name"),
    ("groups add FLEET WLCE-BESS-01 --priority 99999999999", 2, "--priority"),
    ("groups add FLEET VANISHED", 3, "no device 'VANISHED'"),
    ("health VANISHED", 3, "no device 'VANISHED'"),
]


def test_what_is_wrong_is_told_and_changes_nothing(run: Run, sql: psycopg.Connection[Any]) -> None:
    before = everything(sql)
    for line, code, says in WRONG:
        found, told = run(line)
        assert found == code, (line, told)
        assert says in told, line
        assert everything(sql) == before, line


def test_a_template_that_is_shipped_may_be_named_as_its_file(run: Run, sql: psycopg.Connection[Any]) -> None:
    code, told = run("devices apply-template --template tesla_powerpack.yaml --filter 'type=bess,port=502' --commit")
    assert (code, "1 of 1 devices changed" in told) == (0, True)
    rows = sql.execute("SELECT metadata ->> 'template' FROM flux.mg_device_registry").fetchall()
    assert rows == [("tesla_powerpack",)]


STATES = ("registered", "configured", "testing", "active", "failed", "maintenance", "decommissioned")
REQUESTS = st.one_of(
    st.sampled_from(["maintenance start {} --reason x", "maintenance end {}", "set {} host=127.0.0.2"]),
    st.sampled_from(["decommission {} --reason x"]),
    st.sampled_from(STATES),
)


def test_api_cli_and_sql_say_the_same_whatever_is_asked(run: Run, dsn: str, sql: psycopg.Connection[Any]) -> None:
    read = """SELECT state, active, (SELECT e.to_state FROM flux.device_events e WHERE e.device_id = r.id
                                     ORDER BY e.id DESC LIMIT 1)"""
    retire = "UPDATE flux.mg_device_registry SET state = 'decommissioned' WHERE id = %s AND state <> 'decommissioned'"

    def by_http(device: UUID) -> Any:
        answer = httpx.get(f"{server.url}/v1/devices/{device}", headers=server.headers(), trust_env=False)
        return answer.raise_for_status().json()

    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(requests=st.lists(REQUESTS, min_size=2, max_size=4))
    def agree(requests: list[str]) -> None:
        insert = "INSERT INTO flux.mg_device_registry (name, type, site, metadata) VALUES ('B', 'bess', 'WLCE', %s)"
        ((device,),) = sql.execute(insert + " RETURNING id", (Jsonb(BESS),)).fetchall()
        for request in requests:
            if request in STATES:
                change = "UPDATE flux.mg_device_registry SET state = %s WHERE id = %s"
                try:
                    sql.execute(change, (request, device))
                except psycopg.errors.RestrictViolation:
                    continue
            else:
                assert run(f"devices {request.format(device)}")[0] in {0, 5}
            ((state, active, last),) = sql.execute(f"{read} FROM flux.mg_device_registry r WHERE id = %s", (device,))
            _, shown = run(f"devices show {device} --json")
            by_cli, by_api = json.loads(shown), by_http(device)
            assert by_cli == by_api
            assert (by_cli["state"], by_cli["active"], state) == (state, active, last)
        sql.execute(retire, (device,))

    with live_server_on(dsn) as server:
        agree()
