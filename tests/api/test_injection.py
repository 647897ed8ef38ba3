"""SQL in every position of the grammar: nothing but the statement that was meant is run, and nothing else is shown."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from tests.api.fleet import CANARY, fill_fleet
from tests.api.fuzzing import MARK, Wild
from tests.api.live import LiveServer, live_server_on
from tests.api.raw_http import RawConnection
from tests.api.statements import every_statement, unmeant

SLOWEST_S = 5.0

PAYLOADS = (
    f"{MARK}'; DROP TABLE flux.sites CASCADE; --",
    f'{MARK}"; DROP TABLE flux.sites CASCADE; --',
    f"{MARK}') OR 1=1; --",
    f"{MARK}' OR 'x'='x",
    f'{MARK}" OR "x"="x',
    f"1) UNION SELECT name FROM flux.mg_device_registry --{MARK}",
    f"(SELECT {MARK} FROM pg_sleep(30))",
    f"pg_sleep(30)--{MARK}",
    f"{MARK}\\'; SELECT pg_sleep(30); --",
    f"$${MARK}$$; SELECT pg_sleep(30)",
    f"E'\\x27{MARK}' || (SELECT version())",
    f'U&"\\0022{MARK}"',
    f"{MARK}::text; COMMIT; DROP SCHEMA flux CASCADE",
    f"%s%(name)s{{0}}{MARK}",
    f"{MARK}/**/;/**/SET/**/ROLE/**/postgres",
    f"set_config('request.jwt.claims','{{}}',true){MARK}",
    f"{MARK}\x00'; SELECT 1",
    f"*,{MARK},flux.api_keys.*",
)


def _q(text: str) -> str:
    return quote(text, safe="")


def _get(path: str, **headers: str) -> Wild:
    return Wild("GET", f"/rest/v1/{path}".encode(), tuple((k.replace("_", "-"), v) for k, v in headers.items()), b"")


def _send(method: str, path: str, body: Any, kind: str = "application/json") -> Wild:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Wild(method, f"/rest/v1/{path}".encode(), (("Content-Type", kind), ("Prefer", "tx=rollback")), data)


_ROW = {"time": "2026-02-01T00:00:00Z", "type": 5, "value": 1, "site": "WLCE"}
_OPERATORS = ("eq", "neq", "gt", "like", "ilike", "match", "imatch", "is", "isdistinct", "cs", "cd", "ov", "fts")


def _value_of(operator: str) -> Callable[[str], Wild]:
    return lambda p: _get(f"sites?name={operator}.{_q(p)}")


POSITIONS: dict[str, Callable[[str], Wild]] = {
    "table": lambda p: _get(_q(p)),
    "selected column": lambda p: _get(f"sites?select={_q(p)}"),
    "quoted column": lambda p: _get(f"sites?select=%22{_q(p)}%22"),
    "alias": lambda p: _get(f"sites?select={_q(p)}:site"),
    "quoted alias": lambda p: _get(f"sites?select=%22{_q(p)}%22:site"),
    "cast": lambda p: _get(f"sites?select=site::{_q(p)}"),
    "path in select": lambda p: _get(f"mg_device_registry?select=metadata->>{_q(p)}"),
    "path in a filter": lambda p: _get(f"mg_device_registry?select=name&metadata->>{_q(p)}=eq.1"),
    "path in order": lambda p: _get(f"mg_device_registry?select=name&order=metadata->>{_q(p)}"),
    "embedded table": lambda p: _get(f"sites?select=site,{_q(p)}(name)"),
    "embedded column": lambda p: _get(f"sites?select=site,mg_device_registry({_q(p)})"),
    "hint": lambda p: _get(f"sites?select=site,mg_device_registry!{_q(p)}(name)"),
    "embedded filter": lambda p: _get(f"sites?select=site,mg_device_registry(name)&mg_device_registry.name=eq.{_q(p)}"),
    "filtered column": lambda p: _get(f"sites?{_q(p)}=eq.1"),
    "operator": lambda p: _get(f"sites?site={_q(p)}.1"),
    "quantifier": lambda p: _get(f"sites?site=eq({_q(p)}).1"),
    **{f"value of {name}": _value_of(name) for name in _OPERATORS},
    "number": lambda p: _get(f"market_data?value=gt.{_q(p)}"),
    "time": lambda p: _get(f"market_data?time=lt.{_q(p)}"),
    "element of a list": lambda p: _get(f"sites?site=in.(WLCE,{_q(p)})"),
    "quoted element": lambda p: _get(f"sites?site=in.(%22{_q(p)}%22)"),
    "element of an array": lambda p: _get(f"control_decisions?limits=ov.{{{_q(p)}}}"),
    "tree": lambda p: _get(f"sites?or=({_q(p)})"),
    "column in a tree": lambda p: _get(f"sites?or=({_q(p)}.eq.1,site.eq.WLCE)"),
    "value in a tree": lambda p: _get(f"sites?and=(site.eq.WLCE,or(name.eq.{_q(p)}))"),
    "order": lambda p: _get(f"sites?order={_q(p)}"),
    "direction": lambda p: _get(f"sites?order=site.{_q(p)}"),
    "limit": lambda p: _get(f"sites?limit={_q(p)}"),
    "offset": lambda p: _get(f"sites?offset={_q(p)}"),
    "profile": lambda p: _get("sites", Accept_Profile=_q(p)),
    "accept": lambda p: _get("sites", Accept=_q(p)),
    "preference": lambda p: _get("sites", Prefer=f"count={_q(p)}"),
    "time zone": lambda p: _get("sites", Prefer=f"timezone={_q(p)}"),
    "range": lambda p: _get("sites", Range=_q(p)),
    "function": lambda p: _get(f"rpc/{_q(p)}"),
    "argument's name": lambda p: _get(f"rpc/get_meter_readings_5m?{_q(p)}=1"),
    "argument": lambda p: _get(f"rpc/get_meter_readings_5m?start_time={_q(p)}"),
    "argument, array": lambda p: _get(f"rpc/get_meter_readings_5m?device_ids={{{_q(p)}}}"),
    "argument's name in a body": lambda p: _send("POST", "rpc/get_meter_readings_5m", {p: 1}),
    "argument in a body": lambda p: _send("POST", "rpc/get_meter_readings_5m", {"start_time": p}),
    "key of a row": lambda p: _send("POST", "market_data", {**_ROW, p: 1}),
    "value of a row": lambda p: _send("POST", "market_data", {**_ROW, "value": p}),
    "JSON of a row": lambda p: _send("POST", "market_data", {**_ROW, "metadata": {p: p}}),
    "columns": lambda p: _send("POST", f"market_data?columns=time,{_q(p)}", [_ROW]),
    "on_conflict": lambda p: _send("POST", f"market_data?on_conflict={_q(p)}", [_ROW]),
    "given back": lambda p: _send("POST", f"market_data?select={_q(p)}", [_ROW]),
    "CSV header": lambda p: _send("POST", "market_data", f"time,{p}\n2026-02-01,1\n", "text/csv"),
    "CSV value": lambda p: _send("POST", "market_data", f"time,type,value\n2026-02-01,5,{p}\n", "text/csv"),
    "changed column": lambda p: _send("PATCH", "market_data?site=eq.WLCE", {p: 1}),
    "changed to": lambda p: _send("PATCH", "market_data?site=eq.WLCE", {"metadata": p}),
    "deleted where": lambda p: Wild("DELETE", f"/rest/v1/market_data?metadata->>{_q(p)}=eq.1".encode(), (), b""),
    "body": lambda p: _send("POST", "market_data", p),
}


def _everything(dsn: str) -> list[Any]:
    """A fingerprint of schema and rows; nothing that the server itself notes as it goes."""
    with psycopg.connect(dsn) as conn:
        tables = conn.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'flux'::regnamespace AND relkind IN ('r', 'p')
               AND relname !~ '^(api_audit|api_keys|changes|change_log)' ORDER BY relname"""
        ).fetchall()
        rows = [
            conn.execute(f'SELECT %s, count(*), md5(string_agg(t::text, \'|\' ORDER BY t::text)) FROM flux."{name}" t'
                         .encode(), (name,)).fetchone()
            for (name,) in tables
        ]  # fmt: skip
        objects = conn.execute(
            """SELECT (SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text ~ '^flux'),
                      (SELECT count(*) FROM pg_proc WHERE pronamespace::regnamespace::text ~ '^flux'),
                      (SELECT md5(string_agg(rolname || rolsuper::text, ',' ORDER BY rolname)) FROM pg_roles)"""
        ).fetchall()
    return [*rows, *objects]


async def _ask_all(server: LiveServer, every: int) -> list[str]:
    wrong = []
    connection = RawConnection(server.port, SLOWEST_S)
    key = server.key("service", ["WLCE"])
    for number, (position, write) in enumerate(POSITIONS.items()):
        for payload in PAYLOADS[number % every :: every]:
            wild = write(payload)
            headers = (*wild.headers, ("Authorization", f"Bearer {key}"))
            try:
                answer = await connection.ask(wild.method, wild.target, headers, wild.body)
            except (TimeoutError, EOFError) as failure:
                wrong.append(f"{position}: {payload!r}: {failure!r}")
                await connection.close()
                continue
            if not (200 <= answer.status < 300 or 400 <= answer.status < 500) or CANARY.encode() in answer.body:
                wrong.append(f"{position}: {payload!r}: {answer.status} {answer.body[:200]!r}")
    await connection.close()
    return wrong


def _inject(dsn: str, every: int) -> None:
    """Each position with every n-th payload, beginning with another one each time."""
    fill_fleet(dsn)
    with every_statement(dsn) as log, live_server_on(dsn) as server:
        before = _everything(dsn)
        wrong = asyncio.run(_ask_all(server, every))
        assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
        assert _everything(dsn) == before
        statements = log.statements()
    assert unmeant(statements, MARK) == []
    # what is refused by the grammar never reaches the database: some of it must have
    assert len(statements) > len(POSITIONS) * len(PAYLOADS) / every / 4


def test_sql_in_every_position_stays_text(dsn: str) -> None:
    _inject(dsn, every=5)


@pytest.mark.long
def test_every_payload_in_every_position_stays_text(dsn: str) -> None:
    _inject(dsn, every=1)
