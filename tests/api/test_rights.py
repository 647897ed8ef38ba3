"""Who may do what: every cell of role × site × table × verb, tried in real sessions of the API's login."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from tests.api import probes
from tests.api.probes import SHARED, SITES

from flux.store.gateway import gateway_dsn as make_gateway_dsn
from flux.store.permissions import as_markdown, read_permissions
from flux.store.rights import API_ROLES, SERVER_ALSO, TABLES, Fence, Table

READERS = [role for role in API_ROLES if role != "flux_anon"]
VERBS = "riud"


@pytest.fixture(scope="module")
def filled(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The gateway's DSN of a database with a row of everything at two sites."""
    with psycopg.connect(module_dsn) as conn:
        probes.fill(conn)
    return make_gateway_dsn(module_dsn, Path(tmp_path_factory.mktemp("home")))


@contextmanager
def session(dsn: str, role: str, claims: dict[str, Any] | None) -> Iterator[Connection[Any]]:
    """A transaction as ``role`` with these claims, rolled back at the end."""
    with psycopg.connect(dsn) as conn:
        if claims is not None:
            conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
        conn.execute("SELECT set_config('role', %s, true)", (role,))
        yield conn
        conn.rollback()


def statement(conn: Connection[Any], table: Table, verb: str, target: str) -> str | None:
    """What tries the cell; None: there is nothing of the target in this table."""
    condition = probes.of(table, target)
    if condition is None:
        return None
    name = f"flux_api.{table.name}"
    match verb:
        case "r":
            return f"SELECT FROM {name} WHERE {condition} LIMIT 1"
        case "d":
            return f"DELETE FROM {name} WHERE {condition}"
        case "u":
            column = table.updatable[0] if table.updatable else probes.COLUMN[table.fence]
            column = {"template_metrics": "template"}.get(table.name, column)
            return f"UPDATE {name} SET {column} = {column} WHERE {condition}"
        case _:
            row = probes.new_row(table.name, target)
            return (
                probes.insert("flux_api", table.name, row).as_string(conn)
                if row
                else f"INSERT INTO {name} DEFAULT VALUES"
            )


def expected(table: Table, verb: str, role: str, sites: tuple[str, ...] | None, target: str) -> str:
    """What should become of it: ``denied``, ``0`` rows, or ``1`` for one or more."""
    if verb not in table.verbs(role):
        return "denied"
    mine = sites is None or target in sites
    if verb == "r":
        shown = mine or (
            target == SHARED and table.fence in (Fence.SHARED, Fence.GROUP, Fence.SITE_OR_ALL) and bool(sites)
        )
        return "1" if shown else "0"
    if verb == "i":
        return "1" if mine else "denied"
    return "1" if mine else "0"


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("sites", [None, ("WLCE",), ()], ids=["every site", "one site", "no site"])
def test_every_cell(filled: str, role: str, sites: tuple[str, ...] | None) -> None:
    claims: dict[str, Any] = {"role": role.removeprefix("flux_")}
    if sites is not None:
        claims["sites"] = list(sites)
    elif role == "flux_edge":
        pytest.skip("an edge has a site")
    with session(filled, role, claims) as conn:
        cells = [
            (table, verb, target, text)
            for table in TABLES
            for verb in VERBS
            for target in (*SITES, SHARED)
            if (text := statement(conn, table, verb, target)) is not None
        ]
        said = probes.try_each(conn, [text for *_, text in cells])
    wrong = [
        f"{role} {table.name} {verb} {target}: {got}, not {want}; {text}"
        for (table, verb, target, text), got in zip(cells, said, strict=True)
        if (want := expected(table, verb, role, sites, target)) != ("1" if got.isdigit() and int(got) > 0 else got)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(cells) > 300


def test_the_page_has_the_table_of_the_running_system(module_dsn: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "api-security.md"
    assert as_markdown(read_permissions(module_dsn)) in page.read_text(encoding="utf-8")


def test_every_table_is_in_the_table_of_rights_or_is_left_out_on_purpose(module_dsn: str) -> None:
    """A table that somebody adds is nobody's until it is said whose."""
    with psycopg.connect(module_dsn) as conn:
        rows = conn.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'flux'::regnamespace AND relkind IN ('r', 'p', 'v')
               AND NOT relispartition"""
        ).fetchall()
    assert {name for (name,) in rows} == {table.name for table in TABLES} | set(SERVER_ALSO)


def test_every_plain_table_that_clients_see_has_policies(module_dsn: str) -> None:
    with psycopg.connect(module_dsn) as conn:
        rows = conn.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()
    assert {name for (name,) in rows} == {table.name for table in TABLES if not (table.series or table.view)}
