"""Keys: made once, listed without their secret, refused when revoked; and those of the first start."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from psycopg import AsyncConnection
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from flux.api.database import as_caller, session_as_caller
from flux.api.identity import Identity, Role
from flux.api.keys import create_key, key_file, make_first_keys, rotate_key
from flux.api.tokens import Verifier
from flux.cli.app import app
from flux.config import Settings
from flux.errors import ConflictError, InputError, NotFoundError
from flux.store import keys
from flux.store.db import open_pool

Run = Callable[..., Result]
SECRET = b"a secret of tests that is long enough"
CHECK = "SELECT flux.check_key(%s)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, jwt_secret=SecretStr(SECRET.decode()))


async def identity(token: str) -> Identity:
    return await Verifier([SECRET], lambda: datetime.now(UTC)).verify(token)


async def test_a_key_is_a_row_and_a_token_that_says_the_same(db: AsyncConnection[Any]) -> None:
    until = datetime.now(UTC) + timedelta(days=90)
    new = await create_key(
        db, SECRET, name="grafana", role=Role.AUTHENTICATED, sites=["WLCE", "HMCE"], by="ada", expires_at=until
    )
    found = await identity(new.token)
    assert (found.role, found.sites, found.key_id, found.name) == (
        Role.AUTHENTICATED,
        frozenset({"WLCE", "HMCE"}),
        new.key.id,
        "grafana",
    )
    assert [key.name for key in await keys.list_keys(db)] == ["grafana"]
    cursor = await db.execute("SELECT k::text FROM flux.api_keys k")
    ((row,),) = await cursor.fetchall()
    assert new.token not in row
    assert new.token.rpartition(".")[2] not in row


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"role": Role.EDGE}, "exactly one site"),
        ({"role": Role.EDGE, "sites": ["WLCE", "HMCE"]}, "exactly one site"),
        ({"sites": []}, "at least one"),
        ({"sites": ["W L"]}, "codes like WLCE"),
        ({"name": ""}, "begins with a letter"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires after"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(db: AsyncConnection[Any], given: dict[str, Any], error: str) -> None:
    wanted: dict[str, Any] = {"name": "k", "role": Role.SERVICE, "by": "t"} | given
    with pytest.raises(InputError, match=error):
        await create_key(db, SECRET, **wanted)


async def test_a_revoked_key_is_refused_at_the_next_request(db: AsyncConnection[Any], gateway_dsn: str) -> None:
    new = await create_key(db, SECRET, name="k", role=Role.AUTHENTICATED, by="t")
    caller = await identity(new.token)
    async with open_pool(gateway_dsn) as pool:
        async with as_caller(pool, caller) as conn:
            await conn.execute("SELECT 1 FROM flux_api.sites")
        assert (await keys.find_key(db, "k")).last_used is not None
        await keys.revoke_key(db, "k", by="t")
        for way in (as_caller, session_as_caller):
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification, match="revoked"):
                async with way(pool, caller):
                    pass
    with pytest.raises(NotFoundError, match="no key 'k' holds"):
        await keys.revoke_key(db, "k", by="t")


async def test_unknown_and_expired_keys_are_refused_by_the_database_too(db: AsyncConnection[Any]) -> None:
    new = await create_key(db, SECRET, name="k", role=Role.SERVICE, by="t")
    await db.execute(
        "UPDATE flux.api_keys SET created_at = now() - interval '2 h', expires_at = now() - interval '1 h'"
    )
    with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification, match="expired"):
        await db.execute(CHECK, (new.key.id,))
    await db.execute("DELETE FROM flux.api_keys")
    with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification, match="not known"):
        await db.execute(CHECK, (new.key.id,))
    await db.execute(CHECK, (None,))


async def test_last_used_is_written_now_and_then_only(db: AsyncConnection[Any]) -> None:
    new = await create_key(db, SECRET, name="k", role=Role.SERVICE, by="t")

    async def version() -> Any:
        cursor = await db.execute("SELECT xmin::text, last_used FROM flux.api_keys")
        return (await cursor.fetchall())[0]

    await db.execute(CHECK, (new.key.id,))
    first = await version()
    assert first[1] is not None
    await db.execute(CHECK, (new.key.id,))
    assert await version() == first
    await db.execute("UPDATE flux.api_keys SET last_used = now() - interval '11 minutes'")
    aged = await version()
    async with db.transaction():
        await db.execute("SET TRANSACTION READ ONLY")
        await db.execute(CHECK, (new.key.id,))
    assert await version() == aged, "a transaction that reads only still can be checked"
    await db.execute(CHECK, (new.key.id,))
    assert (await version())[1] > aged[1]


async def test_a_rotated_key_holds_for_the_grace_beside_the_new_one(db: AsyncConnection[Any]) -> None:
    until = datetime.now(UTC) + timedelta(days=30)
    old = await create_key(db, SECRET, name="k", role=Role.EDGE, sites=["WLCE"], by="t", expires_at=until)
    new = await rotate_key(db, SECRET, "k", by="t", grace=timedelta(hours=1))
    assert (new.key.role, new.key.sites, new.key.replaces) == ("edge", ["WLCE"], old.key.id)
    assert new.key.expires_at is not None
    assert new.key.expires_at > until
    await db.execute(CHECK, (old.key.id,))
    await db.execute(CHECK, (new.key.id,))
    at_once = await rotate_key(db, SECRET, "k", by="t")
    with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification):
        await db.execute(CHECK, (new.key.id,))
    await db.execute(CHECK, (at_once.key.id,))
    with pytest.raises(ConflictError, match="rotate"):
        await create_key(db, SECRET, name="k", role=Role.SERVICE, by="t")


async def test_the_first_start_makes_keys_once_in_private_files(dsn: str, settings: Settings) -> None:
    made = await make_first_keys(dsn, settings, edges=["WLCE"])
    assert [(new.key.name, new.key.role, new.key.sites) for new in made] == [
        ("anon", "anon", None),
        ("service", "service", None),
        ("edge WLCE", "edge", ["WLCE"]),
    ]
    for new in made:
        file = key_file(settings, new.key.name)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() == new.token
        assert (await identity(new.token)).role == new.key.role
    assert await make_first_keys(dsn, settings, edges=["WLCE"]) == []
    assert [new.key.name for new in await make_first_keys(dsn, settings, edges=["WLCE", "HMCE"])] == ["edge HMCE"]


async def test_keys_of_a_new_database_do_not_replace_those_of_the_one_before(
    two_databases: tuple[str, str], settings: Settings
) -> None:
    first, second = two_databases
    (_, before) = await make_first_keys(first, settings)
    (_, after) = await make_first_keys(second, settings)
    file = key_file(settings, "service")
    assert file.read_text().strip() == after.token
    assert file.with_suffix(".key.before").read_text().strip() == before.token


@pytest.fixture
def run(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    monkeypatch.setenv("FLUX_HOME", str(tmp_path))

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_keys_as_a_person_types_them(run: Run, tmp_path: Path) -> None:
    made = run("create", "grafana", "--role", "authenticated", "--site", "WLCE", "--expires", "90d")
    assert "grafana: authenticated of WLCE" in made.stderr
    assert "no site WLCE yet" in made.stderr
    claims = jwt.decode(made.stdout.strip(), options={"verify_signature": False})
    assert (claims["role"], claims["sites"], claims["name"]) == ("authenticated", ["WLCE"], "grafana")
    assert stat.S_IMODE((tmp_path / "api" / "jwt-secret").stat().st_mode) == 0o600
    listed = run("list", "--json")
    assert [(key["name"], key["state"]) for key in json.loads(listed.stdout)] == [("grafana", "holds")]
    assert made.stdout.strip() not in listed.stdout
    assert "grafana" in run("list").stdout
    rotated = run("rotate", "grafana")
    assert jwt.decode(rotated.stdout.strip(), options={"verify_signature": False})["jti"] != claims["jti"]
    assert "is revoked" in run("revoke", "grafana").stdout
    with pytest.raises(NotFoundError, match="grafana"):
        run("revoke", "grafana")
    states = json.loads(run("list", "--all", "--json").stdout)
    assert [key["state"] for key in states] == ["revoked", "revoked"]
    assert "nothing was written" in run("audit").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--role", "admin"], "--role 'admin': one of anon, authenticated"),
        (["--role", "edge"], "exactly one site"),
        (["--role", "service", "--expires", "2020-01-01"], "not ahead"),
        (["--role", "service", "--expires", "soon"], "--expires 'soon'"),
        (["--role", "service", "--site", "W L"], "codes like WLCE"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(run: Run, arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as told:
        run("create", "k", *arguments)
    assert "\n" not in str(told.value)


def test_the_audit_as_a_person_reads_it(run: Run, gateway_dsn: str) -> None:
    claims = json.dumps({"role": "service", "name": "importer", "sites": ["WLCE"]})
    with psycopg.connect(gateway_dsn) as conn:
        conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
        conn.execute("SET LOCAL ROLE flux_service")
        conn.execute("INSERT INTO flux_api.mg_device_registry (name, type, site) VALUES ('M', 'meter', 'WLCE')")
    (row,) = json.loads(run("audit", "--key", "importer", "--json").stdout)
    assert (row["verb"], row["object"], row["rows"], row["sites"]) == ("INSERT", "mg_device_registry", 1, ["WLCE"])
    assert "importer" in run("audit").stdout
    assert "no site" not in run("create", "k", "--role", "operator", "--site", "WLCE").stderr, "it is there by now"
