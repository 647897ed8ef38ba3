"""The API's roles on servers of other versions, by users who may do less, and by several at once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.conftest import SMALL, reachable_folder, run_admin
from tests.store.test_other_servers import INSTALLED, system_server

from flux.errors import RefusedError
from flux.store.gateway import check_gateway, gateway_dsn
from flux.store.migrate import migrate, status
from flux.store.rights import ROLES
from flux.store.roles import HINT, ensure_roles, roles_sql
from flux.store.server import EmbeddedServer, running_dsn

CLAIMS = json.dumps({"role": "authenticated", "sites": ["WLCE"]})


@pytest.fixture(params=[*(path.parent.name for path in INSTALLED), "embedded"])
def server_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of its own, where nobody has made the roles: up to PostgreSQL 15 who makes a role may do all with it."""
    if request.param == "embedded":
        with reachable_folder() as home, EmbeddedServer(home, fast_unsafe=True, settings=SMALL):
            yield running_dsn(home, "postgres")
    else:
        yield from system_server(next(path for path in INSTALLED if path.parent.name == request.param))


def sees(dsn: str) -> list[tuple[str, ...]]:
    """The names of the devices that a reader of WLCE sees."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT flux.check_key(NULL), set_config('request.jwt.claims', %s, true)", (CLAIMS,))
        conn.execute("SET LOCAL ROLE flux_authenticated")
        return conn.execute("SELECT name FROM flux_api.mg_device_registry").fetchall()


def add_two(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('W', 'meter', 'WLCE')")
        conn.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('H', 'meter', 'HMCE')")


def as_user(dsn: str, name: str, database: str, rights: str) -> str:
    """A login with these rights that owns a database of its own."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' {}").format(sql.Identifier(name), sql.SQL(rights)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(name)))
    return make_conninfo(dsn, user=name, password="x", dbname=database)


def test_an_owner_who_may_make_roles_needs_nobody(server_dsn: str, tmp_path: Path) -> None:
    owner = as_user(server_dsn, "maker", "made", "CREATEROLE")
    assert migrate(owner).without_api is None
    add_two(owner)
    gateway = gateway_dsn(owner, tmp_path)
    assert conninfo_to_dict(gateway)["user"] == "flux_gateway_made"
    assert sees(gateway) == [("W",)]
    assert migrate(owner).changed is False
    assert status(owner).current


def test_a_plain_owner_has_everything_but_the_api_until_a_dba_has_run_the_script(
    server_dsn: str, tmp_path: Path
) -> None:
    owner = as_user(server_dsn, "plain", "hosted", "")
    report = migrate(owner)
    assert report.without_api == HINT
    assert "flux db roles" in HINT
    assert "api" not in report.objects_applied
    assert (status(owner).current, status(owner).without_api) == (True, HINT)
    add_two(owner)
    with pytest.raises(RefusedError, match="flux db roles"):
        gateway_dsn(owner, tmp_path)
    with psycopg.connect(owner) as conn:
        script = roles_sql(conn)
    run_script(make_conninfo(server_dsn, dbname="hosted"), script.replace("PASSWORD '…'", "PASSWORD 'chosen'"))
    assert "api" in migrate(owner).objects_applied
    given = make_conninfo(owner, user="flux_gateway_hosted", password="chosen")
    assert gateway_dsn(owner, tmp_path, given=given) == given
    assert sees(given) == [("W",)]


def run_script(dsn: str, script: str) -> None:
    """As psql runs it, \\gexec and all."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in script.splitlines():
            if statement.endswith(r"\gexec"):
                for (made,) in conn.execute(statement.removesuffix(r"\gexec").encode()).fetchall():
                    conn.execute(made)
            elif not statement.startswith("--"):
                conn.execute(statement.encode())


def test_several_that_make_the_roles_at_once(admin_dsn: str) -> None:
    """Of the whole server, so in the middle of whatever else runs: nothing is taken away, all end well."""

    def make(_: int) -> str | None:
        with psycopg.connect(admin_dsn, autocommit=True) as conn:
            return ensure_roles(conn)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(make, range(12))) == [None] * 12


def test_several_that_make_the_login_at_once_use_the_same(dsn: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: gateway_dsn(dsn, tmp_path), range(4)))
    assert len(made) == 1
    check_gateway(made.pop())


def test_the_login_is_mended_when_its_password_was_lost(dsn: str, tmp_path: Path) -> None:
    first = gateway_dsn(dsn, tmp_path / "one")
    second = gateway_dsn(dsn, tmp_path / "two")
    assert conninfo_to_dict(first)["password"] != conninfo_to_dict(second)["password"]
    check_gateway(second)


@pytest.mark.parametrize(
    ("rights", "told"),
    [
        ("SUPERUSER NOINHERIT", "may do more"),
        ("BYPASSRLS NOINHERIT", "may do more"),
        ("INHERIT", "NOINHERIT"),
        ("NOINHERIT", "may not become flux_anon"),
    ],
)
def test_a_login_that_may_do_more_or_less_than_it_should_is_refused(
    dsn: str, admin_dsn: str, rights: str, told: str
) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE a_login LOGIN PASSWORD 'x' {rights}".encode())
        if told != "may not become flux_anon":
            admin.execute("GRANT flux_anon, flux_authenticated, flux_operator, flux_edge, flux_service TO a_login")
            admin.execute("GRANT flux_server TO a_login")
        try:
            with pytest.raises(RefusedError, match=told):
                gateway_dsn(dsn, Path(), given=make_conninfo(dsn, user="a_login", password="x"))
        finally:
            admin.execute("DROP ROLE a_login")


def test_a_role_of_our_name_with_great_rights_is_refused(dsn: str, admin_dsn: str) -> None:
    run_admin(admin_dsn, "ALTER ROLE {} BYPASSRLS", "flux_views")
    try:
        with pytest.raises(RefusedError, match="flux_views"):
            migrate(dsn)
    finally:
        run_admin(admin_dsn, "ALTER ROLE {} NOBYPASSRLS", "flux_views")


def test_a_database_with_a_long_name_has_a_login_of_63_bytes(admin_dsn: str, template_database: str) -> None:
    name = "a database with a name of just so many bytes: " + "é" * 8
    run_admin(admin_dsn, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template_database)
    try:
        with psycopg.connect(make_conninfo(admin_dsn, dbname=name)) as conn:
            ((login,),) = conn.execute("SELECT flux.gateway_name()").fetchall()
        assert login.startswith("flux_gateway_")
        assert len(login.encode()) <= 63
    finally:
        run_admin(admin_dsn, "DROP DATABASE {} WITH (FORCE)", name)


def test_nobody_of_the_api_may_become_the_owner_of_the_views(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(gateway_dsn(dsn, tmp_path), autocommit=True) as conn:
        ((login,),) = conn.execute("SELECT session_user").fetchall()
        for role in ("flux_views", "pg_monitor", str(conninfo_to_dict(dsn)["user"])):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        rows = conn.execute("SELECT rolname FROM pg_roles WHERE pg_has_role(%s, oid, 'MEMBER')", (login,)).fetchall()
    assert {name for (name,) in rows} == {login, *ROLES} - {"flux_views"}
