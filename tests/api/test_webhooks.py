"""Webhooks: signed schedules reach the controller; what is forged, old, replayed or wrong changes nothing."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from tests.api.live import LiveServer, live_server_on
from tests.support import add_device, fetch
from typer.testing import CliRunner

from flux.api.signatures import PREFIX, WINDOW, SignatureError, Signed, check, parse_secret, signature
from flux.api.webhook_sources import Sources, add_secret, add_source, keep_newest_secret, load_sources, remove_source
from flux.api.webhooks import parse
from flux.cli.app import app as cli
from flux.errors import ConflictError, InputError, NotFoundError
from flux.store.control_feed import read_feed
from flux.store.db import connect

NOW = datetime.now(UTC).replace(microsecond=0)
START = NOW + timedelta(hours=1)
HOUR = timedelta(hours=1)


def steps(*actions: str) -> list[dict[str, str]]:
    return [
        {"start": (START + n * HOUR).isoformat(), "end": (START + (n + 1) * HOUR).isoformat(), "action": action}
        for n, action in enumerate(actions)
    ]


class Platform:
    """Sends webhooks as a platform would."""

    def __init__(self, live: LiveServer, source: str, secret: str) -> None:
        self.url = f"{live.url}/v1/webhooks/dispatch/{source}"
        self.secret = secret
        self.sent = 0

    def send(
        self, content: Any, *, id: str | None = None, at: datetime = NOW, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.sent += 1
        event, stamp = id or f"evt_{self.sent}", str(int(at.timestamp()))
        mark = signature(parse_secret(self.secret, "x"), event, stamp, body)
        given = {"webhook-id": event, "webhook-timestamp": stamp, "webhook-signature": mark, **(headers or {})}
        return httpx.post(self.url, content=body, headers={k: v for k, v in given.items() if v})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webhooks") / "webhooks.yaml"


@pytest.fixture(scope="module")
def live(module_dsn: str, file: Path) -> Iterator[LiveServer]:
    asyncio.run(_add_batteries(module_dsn))
    with live_server_on(module_dsn, clock=lambda: NOW, webhooks_file=file) as live:
        yield live


async def _add_batteries(dsn: str) -> None:
    async with await connect(dsn, application_name="test", autocommit=True) as db:
        await add_device(db, "WLCE-BESS-01", "bess", metadata={"max_power_kw": 100})
        await add_device(db, "HMCE-BESS-01", "bess", site="HMCE")


@pytest.fixture
async def db(live: LiveServer) -> AsyncIterator[AsyncConnection[Any]]:
    """Behind the server's back; what came of a test's webhooks goes with it."""
    async with await connect(live.dsn, application_name="test", autocommit=True) as db:
        yield db
        for table in ("webhook_events", "webhook_positions", "dispatch_schedules", "market_data"):
            await db.execute(f"DELETE FROM flux.{table}".encode())


@pytest.fixture
def axle(live: LiveServer, db: AsyncConnection[Any], file: Path) -> Iterator[Platform]:
    yield Platform(live, "axle", add_source(file, "axle", ["WLCE", "LFCE"]))
    file.unlink()


async def schedule(db: AsyncConnection[Any], site: str = "WLCE") -> list[str]:
    return [step.action for step in (await read_feed(db, site)).schedule]


async def test_a_signed_schedule_is_in_the_controllers_feed_and_on_the_command_line(
    axle: Platform, db: AsyncConnection[Any], module_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await psycopg.AsyncConnection.connect(module_dsn, autocommit=True) as edge:
        await edge.execute("LISTEN flux_control")
        answer = await asyncio.to_thread(axle.send, {"site": "WLCE", "steps": steps("discharge_max", "avoid_import")})
        assert answer.json() == {"site": "WLCE", "result": "applied", "added": 2, "withdrawn": 0}
        told = [notice.payload async for notice in edge.notifies(timeout=1, stop_after=1)]
    assert "dispatch_schedules" in told
    assert await schedule(db) == ["discharge_max", "avoid_import"]
    monkeypatch.setenv("FLUX_DATABASE_URL", module_dsn)
    shown = await asyncio.to_thread(
        CliRunner().invoke, cli, ["control", "schedule", "show", "--site", "WLCE", "--json"]
    )
    assert [(row["action"], row["source"]) for row in json.loads(shown.output)] == [
        ("discharge_max", "axle"),
        ("avoid_import", "axle"),
    ]
    powers = await fetch(db, "SELECT max(value), metadata ->> 'source' FROM flux.market_data WHERE type = 4 GROUP BY 2")
    assert powers == [(100.0, "axle")]


async def test_a_schedule_replaces_the_one_before_and_an_empty_one_ends_it(
    axle: Platform, db: AsyncConnection[Any]
) -> None:
    send = axle.send
    assert send({"site": "WLCE", "steps": steps("charge_max", "avoid_export")}).json()["added"] == 2
    named_otherwise = [
        {"start_timestamp": step["start"], "end_timestamp": step["end"], "action": step["action"]}
        for step in steps("charge_max")
    ]
    second = send({"site": "WLCE", "schedule_steps": named_otherwise, "asset_id": 17})
    assert (second.json()["added"], second.json()["withdrawn"]) == (0, 1)
    assert await schedule(db) == ["charge_max"]
    assert send({"site": "WLCE", "steps": []}).json()["withdrawn"] == 1
    assert await schedule(db) == []


async def test_the_same_bytes_again_are_a_replay_and_a_new_try_does_no_harm(
    axle: Platform, db: AsyncConnection[Any]
) -> None:
    content = {"site": "WLCE", "steps": steps("discharge_max")}
    assert axle.send(content, id="a").status_code == 200
    assert axle.send({"site": "WLCE", "steps": []}, id="b").status_code == 200
    replayed = axle.send(content, id="a")
    assert (replayed.status_code, "replay" in replayed.json()["message"]) == (409, True)
    tried_again = axle.send(content, id="a", at=NOW + timedelta(seconds=30))
    assert (tried_again.status_code, tried_again.json()["result"]) == (200, "taken before")
    assert axle.send(content, id="a", at=NOW + timedelta(seconds=30)).status_code == 409
    other = axle.send({"site": "WLCE", "steps": steps("charge_max")}, id="a", at=NOW + timedelta(seconds=40))
    assert (other.status_code, "another body" in other.json()["message"]) == (409, True)
    assert await schedule(db) == []


async def test_an_older_schedule_that_comes_late_changes_nothing(axle: Platform, db: AsyncConnection[Any]) -> None:
    newer = {"site": "WLCE", "issued_at": NOW.isoformat(), "steps": steps("discharge_max")}
    older = {"site": "WLCE", "issued_at": (NOW - HOUR).isoformat(), "steps": steps("charge_max")}
    assert axle.send(newer).json()["result"] == "applied"
    assert axle.send(older).json()["result"] == "superseded"
    assert await schedule(db) == ["discharge_max"]


async def test_one_that_fails_is_not_noted_so_that_it_can_be_tried_again(
    axle: Platform, db: AsyncConnection[Any]
) -> None:
    content = {"site": "LFCE", "steps": steps("discharge_max")}
    first = axle.send(content, id="a")
    assert (first.status_code, "no site 'LFCE'" in first.json()["message"]) == (404, True)
    await db.execute("INSERT INTO flux.sites (site) VALUES ('LFCE')")
    assert axle.send(content, id="a").json()["result"] == "applied"


async def test_ten_at_once_are_taken_once(axle: Platform, db: AsyncConnection[Any]) -> None:
    content = {"site": "WLCE", "steps": steps("discharge_max")}
    answers = await asyncio.gather(*(asyncio.to_thread(axle.send, content, id="a") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert await schedule(db) == ["discharge_max"]


async def test_what_is_not_signed_rightly_is_refused_in_one_way(
    axle: Platform, live: LiveServer, db: AsyncConnection[Any]
) -> None:
    content = {"site": "WLCE", "steps": steps("discharge_max")}
    stranger = Platform(live, "axle", PREFIX + "A" * 44)
    nobody = Platform(live, "nobody", axle.secret)
    wrong = stranger.send(content)
    assert wrong.status_code == 401
    assert nobody.send(content).json() == wrong.json()
    late = (WINDOW + timedelta(seconds=1), -WINDOW - timedelta(seconds=1))
    others = [
        *(axle.send(content, at=NOW + off) for off in late),
        *(axle.send(content, headers={name: ""}) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")),
        axle.send(content, headers={"webhook-id": "evt_other"}),
        axle.send(content, headers={"webhook-timestamp": str(int(NOW.timestamp()) + 1)}),
        axle.send(content, headers={"webhook-timestamp": "9" * 11}),
        axle.send(content, headers={"webhook-signature": "v1,"}),
    ]
    assert {answer.status_code for answer in others} == {401}
    key = await asyncio.to_thread(httpx.post, axle.url, json=content, headers=live.headers("service"))
    assert key.status_code == 401, "a key of the API is no signature"
    assert await schedule(db) == []


async def test_a_source_reaches_its_sites_alone(axle: Platform, db: AsyncConnection[Any]) -> None:
    answer = axle.send({"site": "HMCE", "steps": steps("discharge_max")})
    assert (answer.status_code, "HMCE" in answer.json()["message"]) == (403, True)
    assert await schedule(db, "HMCE") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "the body: "),
        (b"[]", "the body: "),
        ({"steps": []}, "site: "),
        ({"site": "WLCE"}, "steps: "),
        ({"site": "WLCE", "steps": [{"start": "2026-01-15T17:00Z", "action": "x"}]}, "steps.0.end: "),
        ({"site": "WLCE", "steps": [{**steps("x")[0], "start": "2026-01-15T17:00"}]}, "steps.0.start: "),
        ({"site": "WLCE", "steps": [{**steps("x")[0], "end": START.isoformat()}]}, "steps.0.end: it must be after"),
        ({"site": "WLCE", "steps": [{**steps("x")[0], "action": ""}]}, "steps.0.action: "),
        ({"site": "WLCE", "steps": steps("x") * 1001}, "steps: "),
        ({"site": "WLCE", "steps": [], "issued_at": "2099-01-01T00:00Z"}, "issued_at: "),
    ],
)
def test_wrong_content_is_told_by_its_field(content: Any, says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(content if isinstance(content, bytes) else json.dumps(content).encode(), NOW)
    assert str(refused.value).startswith(says)


async def test_wrong_content_is_422_and_another_text_is_no_site(axle: Platform) -> None:
    wrong = axle.send({"site": "WLCE", "steps": [{**steps("x")[0], "end": START.isoformat()}]})
    assert (wrong.status_code, wrong.json()["message"]) == (422, "steps.0.end: it must be after start")
    assert axle.send({"site": "WLCE\x00", "steps": []}).status_code == 403


async def test_secrets_are_changed_without_a_restart_and_without_a_gap(axle: Platform, file: Path) -> None:
    content = {"site": "WLCE", "steps": []}
    old, axle.secret = axle.secret, add_secret(file, "axle")
    assert axle.send(content).status_code == 200
    new, axle.secret = axle.secret, old
    assert axle.send(content).status_code == 200
    assert keep_newest_secret(file, "axle") == 1
    assert axle.send(content).status_code == 401
    axle.secret = new
    assert axle.send(content).status_code == 200
    remove_source(file, "axle")
    assert axle.send(content).status_code == 401


async def test_signed_by_openssl_and_sent_by_curl(axle: Platform, tmp_path: Path) -> None:
    """As docs/api-webhooks.md shows it."""
    script = r"""
      id=evt_$RANDOM; timestamp=$(date +%s)
      key=$(printf %s "${SECRET#whsec_}" | base64 -d | od -An -tx1 | tr -d ' \n')
      signature=$(printf '%s.%s.%s' "$id" "$timestamp" "$body" |
        openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
      curl -sS "$URL" -H "webhook-id: $id" -H "webhook-timestamp: $timestamp" \
        -H "webhook-signature: v1,$signature" -d "$body"
    """
    body = json.dumps({"site": "WLCE", "steps": steps("discharge_max")})
    with_clock = {"SECRET": axle.secret, "URL": axle.url, "body": body, "PATH": "/usr/bin:/bin"}
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], env=with_clock, capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(done.stdout)["result"] == "applied", done.stdout


# ---- signatures and the file


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.binary(min_size=24, max_size=64), st.data())
def test_a_signature_is_of_these_bytes_and_this_secret(body: bytes, secret: bytes, data: st.DataObject) -> None:
    stamp = str(int(NOW.timestamp()))
    mark = signature(secret, "id", stamp, body)
    check(Signed("id", stamp, ("v1,other", mark)), body, [b"x" * 32, secret], NOW)
    changed = data.draw(st.sampled_from(["body", "id", "stamp", "mark", "secret", "none"]))
    signed = Signed(
        "ie" if changed == "id" else "id",
        str(int(stamp) - 1) if changed == "stamp" else stamp,
        (mark[:-2] + ("A=" if mark[-2] != "A" else "B="),) if changed == "mark" else (mark,),
    )
    secrets = [] if changed == "none" else [secret + b"x"] if changed == "secret" else [secret]
    with pytest.raises(SignatureError):
        check(signed, body + b"x" if changed == "body" else body, secrets, NOW)


def test_a_known_signature() -> None:
    """Computed with openssl, so that what others compute fits."""
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "x")
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("text", ["short", "whsec_", "whsec_not base64!", "whsec_" + "A" * 20])
def test_a_secret_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="AXLE") as refused:
        parse_secret(text, "AXLE")
    assert "A" * 20 not in str(refused.value)


def test_the_file_is_for_its_owner_and_its_secrets_are_not_told(tmp_path: Path) -> None:
    file = tmp_path / "api" / "webhooks.yaml"
    secret = add_source(file, "axle", ["WLCE"])
    assert file.stat().st_mode & 0o777 == 0o600
    add_source(file, "other-1", ["HMCE", "LFCE"])
    assert load_sources(file)["axle"].secrets == (secret,)
    assert secret not in repr(load_sources(file))
    for name, error in (("axle", ConflictError), ("Ax le", InputError), ("../x", InputError)):
        with pytest.raises(error):
            add_source(file, name, ["WLCE"])
    with pytest.raises(NotFoundError, match="axle, other-1"):
        add_secret(file, "nobody")
    file.write_text(file.read_text() + f"  {secret}: 3\n")
    with pytest.raises(InputError) as wrong:
        load_sources(file)
    assert secret not in str(wrong.value)
    file.chmod(0o644)
    with pytest.raises(InputError, match="0644"):
        load_sources(file)


def test_secrets_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.yaml"
    file.write_text("sources:\n  axle: {sites: [WLCE], secrets_env: [AXLE_WEBHOOK]}\n")
    file.chmod(0o600)
    assert Sources(file, {"AXLE_WEBHOOK": "s" * 32}).get("axle") == (("WLCE",), [b"s" * 32])
    with pytest.raises(InputError, match="AXLE_WEBHOOK"):
        Sources(file, {}).get("axle")
    assert Sources(tmp_path / "none", {}).get("axle") == ((), ())


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HOME", str(tmp_path))
    run = CliRunner()
    assert "no platform" in run.invoke(cli, ["webhooks", "list"]).output
    made = run.invoke(cli, ["webhooks", "create", "axle", "--site", "WLCE", "--site", "HMCE"])
    secret = made.stdout.strip()
    assert parse_secret(secret, "x")
    shown = run.invoke(cli, ["webhooks", "list"]).output
    assert "WLCE, HMCE" in shown
    assert secret not in shown
    newer = run.invoke(cli, ["webhooks", "rotate", "axle"]).stdout.strip()
    assert newer != secret
    assert "1 older" in run.invoke(cli, ["webhooks", "rotate", "axle", "--finish"]).output
    assert load_sources(tmp_path / "api" / "webhooks.yaml")["axle"].secrets == (newer,)
    assert run.invoke(cli, ["webhooks", "remove", "axle"]).exit_code == 0
    assert "no platform" in run.invoke(cli, ["webhooks", "list"]).output
