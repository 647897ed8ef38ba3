"""Who may do what over HTTP: role × site × table × verb, taken from the running system and tried with real tokens.

What a role may do is what the catalogue of the database says; what belongs to a site is found without its fences: by
the site's name, the ids of its devices and groups, or the word CANARY in the text of a row.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest
from tests.api.fleet import CANARY
from tests.api.live import LiveServer

ROLES = ("anon", "authenticated", "operator", "edge", "service")
VERBS = {"GET": "SELECT", "POST": "INSERT", "PATCH": "UPDATE", "DELETE": "DELETE"}
OF_ALL_SITES = {"worker_jobs", "api_keys", "api_audit"}
"""Tables that are for callers without a list of sites, or by the sites of a key."""
ROLLBACK = "tx=rollback"


@dataclass(frozen=True, slots=True)
class View:
    """A view of schema ``flux_api`` as the catalogue knows it."""

    name: str
    columns: tuple[str, ...]
    may: dict[str, dict[str, bool]] = field(hash=False)
    """By role and verb of SQL."""
    updatable: dict[str, str | None] = field(hash=False)
    """By role: a column that it may update."""


@dataclass(slots=True)
class World:
    """The server with a client for each role, limited to WLCE."""

    server: LiveServer
    conn: psycopg.Connection[Any]
    views: tuple[View, ...]
    clients: dict[str, httpx.Client]


@pytest.fixture(scope="module")
def world(fleet_server: LiveServer) -> Iterator[World]:
    with ExitStack() as stack:
        conn = stack.enter_context(psycopg.connect(fleet_server.dsn, autocommit=True))
        clients = {
            role: stack.enter_context(
                httpx.Client(base_url=f"{fleet_server.url}/rest/v1", headers=fleet_server.headers(role, ["WLCE"]))
            )
            for role in ROLES
        }
        yield World(fleet_server, conn, tuple(_views(conn)), clients)


def _views(conn: psycopg.Connection[Any]) -> Iterator[View]:
    rows = conn.execute(
        """SELECT c.oid, c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           WHERE c.relnamespace = 'flux_api'::regnamespace AND c.relkind = 'v' GROUP BY c.oid, c.relname ORDER BY 2"""
    ).fetchall()
    for oid, name, columns in rows:
        may: dict[str, dict[str, bool]] = {}
        updatable: dict[str, str | None] = {}
        for role in ROLES:
            login = f"flux_{role}"
            may[role] = {}
            for verb in VERBS.values():
                call = "has_table_privilege" if verb == "DELETE" else "has_any_column_privilege"
                query = f"SELECT has_schema_privilege(%s, 'flux_api', 'USAGE') AND {call}(%s, %s::oid, %s)"
                may[role][verb] = conn.execute(query.encode(), (login, login, oid, verb)).fetchall() == [(True,)]
            found = conn.execute(
                """SELECT attname::text FROM pg_attribute WHERE attrelid = %s AND attnum > 0
                   AND has_column_privilege(%s, attrelid, attnum, 'UPDATE') ORDER BY attnum LIMIT 1""",
                (oid, login),
            ).fetchone()
            updatable[role] = found[0] if found else None
        yield View(name, tuple(columns), may, updatable)


def _marks(conn: psycopg.Connection[Any]) -> list[str]:
    """What stands in every row of the other site, and in no row of one's own."""
    ids = conn.execute(
        """SELECT id::text FROM flux.mg_device_registry WHERE site = 'HMCE'
           UNION ALL SELECT id::text FROM flux.device_groups WHERE site = 'HMCE'"""
    ).fetchall()
    return [CANARY, "HMCE", *(row[0] for row in ids)]


def _try(client: httpx.Client, view: View, verb: str, role: str) -> httpx.Response:
    """One request of a verb that changes nothing: of no row, or taken back."""
    column = view.columns[0]
    nothing = httpx.QueryParams([(column, "is.null"), (column, "not.is.null")])
    prefer = {"Prefer": f"return=minimal,{ROLLBACK}"}
    if verb == "GET":
        return client.get(view.name, params={"limit": 1, "select": column})
    if verb == "POST":
        return client.post(view.name, json=[{column: None}], headers=prefer)
    if verb == "PATCH":
        return client.patch(view.name, params=nothing, json={view.updatable[role] or column: None}, headers=prefer)
    return client.delete(view.name, params=nothing, headers=prefer)


def _lacks_right(answer: httpx.Response) -> bool:
    """Whether it was refused for want of the right itself, not of the row's site."""
    if answer.status_code not in {401, 403}:
        return False
    told = answer.json()
    return bool(told["code"] == "42501" and told["message"].startswith("permission denied"))


def _cells(world: World, every: int) -> tuple[int, list[str]]:
    """Every n-th cell: a right that a role lacks is refused as such, one that it has is never refused as such."""
    cells = [(role, view, verb) for role in world.clients for view in world.views for verb in VERBS][::every]
    wrong = []
    for role, view, verb in cells:
        answer = _try(world.clients[role], view, verb, role)
        if _lacks_right(answer) is view.may[role][VERBS[verb]] or answer.status_code >= 500:
            wrong.append(f"{role} {verb} {view.name}: {answer.status_code} {answer.text[:120]}")
    return len(cells), wrong


def test_cells_are_what_the_catalogue_says(world: World) -> None:
    """A fifth of them, of all verbs: there are four of those."""
    cells, wrong = _cells(world, every=5)
    assert not wrong, f"{len(wrong)} of {cells} cells:\n" + "\n".join(wrong)


@pytest.mark.long
def test_every_cell_is_what_the_catalogue_says(world: World) -> None:
    cells, wrong = _cells(world, every=1)
    assert not wrong, f"{len(wrong)} of {cells} cells:\n" + "\n".join(wrong)
    assert cells == len(ROLES) * len(world.views) * len(VERBS)


def test_each_role_can_do_something_and_none_can_do_all(world: World) -> None:
    """The catalogue itself: a table of rights that were all true, or all false, would prove nothing above."""
    can = {
        role: {(view.name, verb) for view in world.views for verb, may in view.may[role].items() if may}
        for role in ROLES
    }
    assert can["anon"] == set()
    assert {verb for _, verb in can["authenticated"]} == {"SELECT"}
    assert {view for view, verb in can["edge"] if verb in {"UPDATE", "DELETE"}} == set()
    assert ("mg_meter_readings", "INSERT") in can["edge"]
    assert not any(verb != "SELECT" and view.startswith("api_") for cells in can.values() for view, verb in cells)


def test_reading_gives_every_row_of_ones_own_site_and_none_of_another(world: World) -> None:
    marks = _marks(world.conn)
    wrong = []
    for view in world.views:
        if view.name in OF_ALL_SITES:
            continue
        ((own,),) = world.conn.execute(
            f"SELECT count(*) FROM flux.{view.name} t WHERE NOT to_jsonb(t)::text LIKE ANY (%s)".encode(),
            ([f"%{mark}%" for mark in marks],),
        ).fetchall()
        for role in ROLES:
            if not view.may[role]["SELECT"]:
                continue
            answer = world.clients[role].get(view.name)
            shown = [mark for mark in marks if mark in answer.text]
            if answer.status_code != 200 or shown or len(answer.json()) != own:
                wrong.append(f"{role} {view.name}: {answer.status_code}, {len(answer.json())} rows of {own}, {shown}")
    assert not wrong, "\n".join(wrong)


def test_a_token_without_any_site_sees_no_row(world: World) -> None:
    headers = world.server.headers("authenticated", [])
    with httpx.Client(base_url=f"{world.server.url}/rest/v1", headers=headers) as client:
        seen = {view.name: client.get(view.name, params={"limit": 1}).text for view in world.views}
    assert {name for name, text in seen.items() if text != "[]" and "42501" not in text} == set()


def _fingerprint(conn: psycopg.Connection[Any], names: Sequence[str], marks: Sequence[str]) -> dict[str, Any]:
    """Of every row of the other site, by table."""
    return {
        name: conn.execute(
            f"""SELECT count(*), md5(string_agg(to_jsonb(t)::text, '|' ORDER BY to_jsonb(t)::text))
                FROM flux.{name} t WHERE to_jsonb(t)::text LIKE ANY (%s)""".encode(),
            ([f"%{mark}%" for mark in marks],),
        ).fetchall()
        for name in names
    }


def _row_of(conn: psycopg.Connection[Any], view: str, pattern: str) -> dict[str, Any] | None:
    found = conn.execute(
        f"SELECT to_jsonb(t) FROM flux.{view} t WHERE to_jsonb(t)::text LIKE %s LIMIT 1".encode(), (pattern,)
    ).fetchone()
    return found[0] if found else None


def _foreign_writes(
    world: World, view: View, role: str, marks: Sequence[str]
) -> Iterator[tuple[str, httpx.Response, bool]]:
    """What a caller of WLCE tries on rows of HMCE; the third: it must be refused, to change no row is not enough."""
    client = world.clients[role]
    key = "site" if "site" in view.columns else "device_id" if "device_id" in view.columns else view.columns[0]
    devices = [row[0] for row in world.conn.execute("SELECT id::text FROM flux.mg_device_registry WHERE site = 'HMCE'")]
    theirs = {key: "eq.HMCE" if key == "site" else f"in.({','.join(devices)})"}
    give_back = {"Prefer": "return=representation"}
    may = view.may[role]
    if key in {"site", "device_id"}:
        foreign = "HMCE" if key == "site" else devices[0]
        if may["UPDATE"]:
            column = view.updatable[role] or key
            yield "change theirs", client.patch(view.name, params=theirs, json={column: None}, headers=give_back), False
            if column == key or may["INSERT"]:
                own = {key: f"not.{theirs[key]}"}
                yield (
                    "give them ours",
                    client.patch(view.name, params=own, json={key: foreign}, headers=give_back),
                    False,
                )
        if may["DELETE"]:
            yield "delete theirs", client.delete(view.name, params=theirs, headers=give_back), False
    if may["INSERT"]:
        row = next((found for mark in marks if (found := _row_of(world.conn, view.name, f"%{mark}%"))), None)
        if row is not None:
            for name in ("id", "created_at"):
                row.pop(name, None)
            for name in ("time", "timestamp", "started_at"):
                if name in row:
                    row[name] = "2026-01-15T10:59:30Z"
            yield "insert for them", client.post(view.name, json=row), True


@pytest.mark.parametrize("role", ["operator", "edge", "service"])
def test_nothing_of_another_site_can_be_written(world: World, role: str) -> None:
    marks = _marks(world.conn)
    names = [view.name for view in world.views if view.name not in OF_ALL_SITES]
    before = _fingerprint(world.conn, names, marks)
    wrong, tried = [], 0
    for view in world.views:
        if view.name in OF_ALL_SITES:
            continue
        for what, answer, refused in _foreign_writes(world, view, role, marks):
            tried += 1
            told = f"{role} {view.name}, {what}: {answer.status_code} {answer.text[:160]}"
            shows = any(mark in answer.text for mark in marks if answer.is_success)
            if answer.status_code >= 500 or shows or (refused and answer.is_success):
                wrong.append(told)
            if not refused and answer.is_success and json.loads(answer.text or "[]") != []:
                wrong.append(told)
    after = _fingerprint(world.conn, names, marks)
    assert not wrong, "\n".join(wrong)
    assert {name for name in names if before[name] != after[name]} == set()
    assert tried >= (4 if role == "edge" else 20)
