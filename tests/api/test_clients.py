"""The official clients as oracles: what they are given is what plain SQL finds on the same database."""

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from postgrest import APIError, SyncPostgrestClient
from supabase import create_client
from tests import clients
from tests.api import cases_reading, cases_writing
from tests.api.client_cases import PYTHON, Answer, Case, Client
from tests.api.live import LiveServer

READING = (*cases_reading.FILTERS, *cases_reading.SELECTING, *cases_reading.EMBEDDING, *cases_reading.FUNCTIONS)
WRITING = (*cases_writing.INSERTS, *cases_writing.CHANGES)
Ask = Callable[[Case], Answer]

# `supabase` gives `postgrest` arguments that it would rather not be given any more
pytestmark = pytest.mark.filterwarnings("ignore:The '(timeout|verify|proxy)' parameter:DeprecationWarning")
needs_node = pytest.mark.skipif(clients.missing() is not None, reason=f"JavaScript: {clients.missing()}")


@contextmanager
def python_client(name: Client, url: str, key: str) -> Iterator[Ask]:
    """``postgrest`` by itself, or ``supabase`` with all that it brings."""
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    with (
        httpx.Client(base_url=f"{url}/rest/v1", headers=headers) as http,
        SyncPostgrestClient(f"{url}/rest/v1", headers=headers, http_client=http) as postgrest,
    ):
        client: Any = create_client(url, key) if name == "supabase" else postgrest

        def ask(case: Case) -> Answer:
            try:
                answer = case.calls.replay(client)
            except APIError as error:
                return Answer(error=error.code, message=error.message)
            if answer is None:  # of maybe_single, where there is none
                return Answer()
            return Answer(answer.data, answer.count)

        yield ask
        if name == "supabase":
            client.postgrest.aclose()


@contextmanager
def javascript_client(name: Client, url: str, key: str) -> Iterator[Ask]:
    """One node process for all cases."""
    environment = {"PATH": os.environ["PATH"], "FLUX_URL": url, "FLUX_KEY": key}
    with subprocess.Popen(
        ["node", "run.mjs"], cwd=clients.HERE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None

        def ask(case: Case) -> Answer:
            assert node.stdin is not None
            assert node.stdout is not None
            told = {"client": name, "calls": case.calls.for_javascript()}
            node.stdin.write(json.dumps(told) + "\n")
            node.stdin.flush()
            answer = json.loads(node.stdout.readline())
            error = answer["error"] or {}
            code = error.get("code", "no code") if error else None
            return Answer(answer["data"], answer["count"], code, error.get("message"))

        try:
            yield ask
        finally:
            node.stdin.close()
            node.wait(timeout=20)


def _expected(conn: psycopg.Connection[Any], case: Case) -> Any:
    """The data that ``case`` must give."""
    if case.shape == "nothing":
        return None
    if case.shape == "csv":
        with conn.cursor().copy(f"COPY ({case.sql}) TO STDOUT (FORMAT csv, HEADER)".encode()) as copy:
            return list(csv.reader(io.StringIO(b"".join(map(bytes, copy)).decode())))
    query = f"SELECT row_to_json(t)::text FROM ({case.sql}) t"
    rows = [json.loads(row, parse_float=Decimal) for (row,) in conn.execute(query.encode())]
    rows = [row.get("json_strip_nulls", row) for row in rows]
    return rows[0] if case.shape == "one" else rows


def _wrong(conn: psycopg.Connection[Any], case: Case, answer: Answer) -> str | None:
    """What is wrong with the answer; None: nothing."""
    if (answer.error or "") != case.error:
        return f"error {answer.error!r} ({answer.message}) instead of {case.error!r}"
    if not case.error:
        data = answer.data
        if case.shape == "csv":
            data = list(csv.reader(io.StringIO(data)))
        elif case.shape == "nothing":
            data = data or None  # the clients differ: an empty list, an empty text, null
        expected = _expected(conn, case)
        if _plain(data) != _plain(expected):
            return f"data {data!r}\n    instead of {expected!r}"
    if case.count_sql:
        ((count,),) = conn.execute(case.count_sql.encode()).fetchall()
        if answer.count != count:
            return f"count {answer.count} instead of {count}"
    if case.state_sql and conn.execute(case.state_sql.encode()).fetchall() != [(True,)]:
        return f"afterwards it does not hold that {case.state_sql}"
    return None


def _plain(value: Any) -> Any:
    """Numbers as numbers, whichever type the client made of them."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else value


def _judge(server: LiveServer, client: Client, cases: tuple[Case, ...]) -> list[str]:
    """What is wrong, case by case; every one is asked."""
    begin = python_client if client in PYTHON else javascript_client
    wrong = []
    with (
        psycopg.connect(server.dsn, autocommit=True, options="-c TimeZone=UTC") as conn,
        begin(client, server.url, server.key()) as ask,
    ):
        for case in cases:
            if client not in case.only:
                continue
            found = _wrong(conn, case, ask(case))
            if found is not None:
                wrong.append(f"{case.name}: {found}")
            if case.undo_sql:
                conn.execute(case.undo_sql.encode())
    return wrong


@pytest.mark.parametrize("cases", [READING, WRITING], ids=["reading", "writing"])
@pytest.mark.parametrize(
    "client",
    [
        "postgrest",
        pytest.param("supabase", marks=pytest.mark.long),
        pytest.param("supabase-js", marks=needs_node),
        pytest.param("postgrest-js", marks=[needs_node, pytest.mark.long]),
    ],
)
def test_a_client_is_given_what_sql_finds(fleet_server: LiveServer, client: Client, cases: tuple[Case, ...]) -> None:
    wrong = _judge(fleet_server, client, cases)
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)


def test_every_case_is_there_once() -> None:
    names = [case.name for case in (*READING, *WRITING)]
    assert len(names) == len(set(names))
