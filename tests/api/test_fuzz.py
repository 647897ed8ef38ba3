"""Requests that nobody would write: no 5xx, no hang, nothing of another site, no statement that was not meant."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
from tests.api.fleet import CANARY, fill_fleet
from tests.api.fuzzing import MARK, Wild, Wilderness, kind_of
from tests.api.live import LiveServer, live_server_on
from tests.api.raw_http import RawAnswer, RawConnection
from tests.api.statements import StatementLog, every_statement, unmeant

CALLERS = (("authenticated", 6), ("operator", 2), ("service", 3), ("edge", 1), ("anon", 1))
"""Roles, each with keys of site WLCE, and how many of the requests are theirs."""
CONNECTIONS = 4
SLOWEST_S = 20.0
_OURS = ("08", "25", "26", "34", "3D", "40", "42601", "42P02", "42P18", "53", "54", "55", "57P", "58", "F0", "XX")
"""Errors of PostgreSQL that no request may cause: wrong SQL, lost connections and transactions, broken things."""
_NO_HTTP = {"message": "this is no HTTP request"}
"""What the server says to bytes that never became a request."""
_ERROR_KEYS = {"code", "message", "details", "hint"}


@contextmanager
def watched_server(dsn: str) -> Iterator[tuple[LiveServer, StatementLog]]:
    """A server on the fleet whose every statement is logged."""
    fill_fleet(dsn)
    with every_statement(dsn) as log, live_server_on(dsn) as server:
        yield server, log


def _wilderness(dsn: str, seed: int) -> Wilderness:
    with psycopg.connect(dsn) as conn:
        columns: dict[str, dict[str, str]] = {}
        for table, column, kind in conn.execute(
            """SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               WHERE c.relnamespace = 'flux_api'::regnamespace AND c.relkind = 'v' ORDER BY 1, a.attnum"""
        ):
            columns.setdefault(table, {})[column] = kind_of(kind)
        related: dict[str, list[str]] = {}
        for one, other in conn.execute(
            """SELECT DISTINCT c.conrelid::regclass::text, c.confrelid::regclass::text FROM pg_constraint c
               WHERE c.contype = 'f' AND c.connamespace = 'flux'::regnamespace ORDER BY 1, 2"""
        ):
            ends = [name.removeprefix("flux.") for name in (one, other)]
            if all(end in columns for end in ends):
                related.setdefault(ends[0], []).append(ends[1])
                related.setdefault(ends[1], []).append(ends[0])
        functions = {
            name: dict(zip(names, map(kind_of, types), strict=False))
            for name, names, types in conn.execute(
                """SELECT proname, coalesce(proargnames[:pronargs], '{}'),
                          ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) t)
                   FROM pg_proc WHERE pronamespace = 'flux_api'::regnamespace ORDER BY proname"""
            )
        }
    assert columns
    assert related
    assert functions
    return Wilderness(seed, columns, related, functions)


def _of_other_sites(dsn: str) -> list[Any]:
    """A fingerprint of everything that no key of WLCE may change."""
    with psycopg.connect(dsn) as conn:
        return [
            conn.execute(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {source} t".encode())
            .fetchall()
            for source in (
                "(SELECT * FROM flux.sites WHERE site <> 'WLCE')",
                "(SELECT * FROM flux.mg_device_registry WHERE site <> 'WLCE')",
                "(SELECT * FROM flux.market_data WHERE site <> 'WLCE' OR type = 2 AND site IS NULL)",
                *(
                    f"(SELECT r.* FROM flux.{table} r JOIN flux.mg_device_registry d ON d.id = r.device_id"
                    " WHERE d.site <> 'WLCE')"
                    for table in ("mg_meter_readings", "mg_bess_readings", "device_health", "control_decisions")
                ),
            )
        ]  # fmt: skip


async def _ask_all(server: LiveServer, requests: Sequence[tuple[Wild, str]]) -> tuple[Counter[str], list[str]]:
    """How many answers of each kind, and what was wrong with any."""
    queue = iter(requests)
    kinds: Counter[str] = Counter()
    wrong: list[str] = []

    async def work() -> None:
        connection = RawConnection(server.port, SLOWEST_S)
        for wild, key in queue:  # one iterator for all: each request is taken once
            headers = (*wild.headers, ("Authorization", f"Bearer {key}"))
            try:
                answer = await connection.ask(wild.method, wild.target, headers, wild.body)
            except (TimeoutError, EOFError) as failure:
                wrong.append(f"{wild}: {failure!r}")
                await connection.close()
                continue
            kinds[f"{answer.status // 100}xx"] += 1
            if (found := _wrong(wild, answer)) is not None:
                wrong.append(f"{wild}: {found}")
        await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(work())
    return kinds, wrong


def _wrong(wild: Wild, answer: RawAnswer) -> str | None:
    status, body = answer.status, answer.body
    if not (200 <= status < 300 or 400 <= status < 500 or status == 307):  # from /rest/v1 to /rest/v1/
        return f"status {status}: {body[:300]!r}"
    if CANARY.encode() in body:
        return f"another site's row: {body[:300]!r}"
    if body and "json" in answer.headers.get("content-type", ""):
        told = json.loads(body)
        if status == 400 and told == _NO_HTTP:
            return None
        path = unquote(wild.target.decode("latin-1")).partition("?")[0]
        inside = path.startswith("/rest/v1/") and "\n" not in path  # spoiled ones may not come there
        if status >= 400 and inside and not (isinstance(told, dict) and told.keys() == _ERROR_KEYS):
            return f"status {status} with {body[:300]!r}"
        # (text that is no tsquery has the code of wrong SQL)
        if status >= 400 and inside and str(told["code"]).startswith(_OURS) and "tsquery" not in told["message"]:
            return f"our own mistake: {body[:300]!r}"
    return None


def _fuzz(dsn: str, rounds: int, batch: int, seed: int) -> None:
    with watched_server(dsn) as (server, log):
        wilderness = _wilderness(dsn, seed)
        keys = [server.key(role, ["WLCE"]) for role, share in CALLERS for _ in range(share)]
        before = _of_other_sites(dsn)
        kinds: Counter[str] = Counter()
        said = 0
        began = time.perf_counter()
        for number in range(0, rounds, batch):
            requests = [(wilderness.request(), keys[(number + n) % len(keys)]) for n in range(batch)]
            found, wrong = asyncio.run(_ask_all(server, requests))
            assert not wrong, f"after {number}, {len(wrong)} of {batch}:\n" + "\n".join(wrong[:10])
            statements = log.statements()
            log.forget()
            assert unmeant(statements, MARK) == []
            kinds += found
            said += len(statements)
        assert _of_other_sites(dsn) == before
        seconds = time.perf_counter() - began
    print(f"{rounds:,} requests in {seconds:.0f} s ({rounds / seconds:.0f}/s): {dict(kinds)}, {said:,} statements")
    # a fuzzer that never comes through the grammar would find nothing behind it
    assert kinds["2xx"] > rounds / 20
    assert said > rounds / 4


def test_a_few_hundred_wild_requests(dsn: str) -> None:
    _fuzz(dsn, 300, 300, seed=1)


@pytest.mark.long
def test_a_hundred_thousand_wild_requests(dsn: str) -> None:
    _fuzz(dsn, 100_000, 2_000, seed=int(time.time()))
