"""Alerts are raised, folded and cleared; notifications go out on their routes, through a real webhook."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from tests.support import add_device, fetch

from flux.errors import InputError, UnavailableError
from flux.model import DeviceState
from flux.registry import list_alerts, refresh_alerts, set_state, start_maintenance
from flux.registry.alerts import FOLD, Condition, Severity, raise_and_clear
from flux.registry.notify import AppriseSender, Message, Route, load_notifications, tell

Conn = AsyncConnection[Any]
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def offline(site: str = "WLCE", severity: str = "warning") -> Condition:
    return Condition(f"offline:{site}", severity, site, "METER does not answer")


class Recorder:
    """Keeps what it is told to send; fails while ``broken``."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.broken: set[str] = set()

    async def __call__(self, route: Route, message: Message) -> None:
        if route.name in self.broken:
            raise UnavailableError(f"route {route.name}: not today")
        self.sent.append((route.name, message.title))


def route(name: str = "ops", **options: Any) -> Route:
    return Route(name=name, url_env="NOWHERE", **options)


async def test_a_failed_device_and_overdue_maintenance_are_alerted_until_they_are_over(db: Conn) -> None:
    failed = await add_device(db, "M1", state="testing")
    await set_state(db, failed, DeviceState.FAILED, trigger="test", actor="edge", reason="timeout")
    late = await add_device(db, "M2")
    await start_maintenance(db, late, actor="ada", reason="fuse", lasts=MINUTE, started_at=NOW)
    await refresh_alerts(db, NOW + MINUTE)
    assert [alert.text for alert in await list_alerts(db)] == ["M1 has failed its test: timeout"]
    await refresh_alerts(db, NOW + 2 * MINUTE)
    assert {alert.text for alert in await list_alerts(db)} == {
        "M1 has failed its test: timeout",
        "M2 is in maintenance longer than planned: fuse",
    }
    await set_state(db, failed, DeviceState.TESTING, trigger="retry", actor="edge")
    await db.execute("UPDATE flux.mg_device_registry SET active = true")
    await refresh_alerts(db, NOW + 3 * MINUTE)
    assert await list_alerts(db) == []
    assert len(await list_alerts(db, since=NOW)) == 2


@pytest.mark.parametrize(
    ("status", "diagnostics", "text", "severity"),
    [
        ("offline", {}, "M1 does not answer", "critical"),
        ("degraded", {}, "M1 answers slowly or with errors", "warning"),
        ("offline", {"flapping": True}, "M1 comes and goes", "warning"),
    ],
)
async def test_the_newest_health_of_a_device_is_alerted(
    db: Conn, status: str, diagnostics: dict[str, Any], text: str, severity: str
) -> None:
    device = await add_device(db, "M1")
    await db.execute("SELECT flux.ensure_partitions('flux.device_health', %s, %s)", (NOW, NOW + MINUTE))
    insert = "INSERT INTO flux.device_health (device_id, timestamp, status, diagnostics) VALUES (%s, %s, %s, %s)"
    await db.execute(insert, (device, NOW, status, Jsonb(diagnostics)))
    await refresh_alerts(db, NOW)
    assert [(a.text, a.severity) for a in await list_alerts(db)] == [(text, severity)]
    await db.execute(insert, (device, NOW + MINUTE, "online", Jsonb({})))
    await refresh_alerts(db, NOW + MINUTE)
    assert await list_alerts(db) == []
    await refresh_alerts(db, NOW + 12 * MINUTE)
    assert [a.text for a in await list_alerts(db)] == ["nothing was heard of site WLCE for over 10 minutes"]


async def test_one_that_comes_back_soon_is_told_once(db: Conn) -> None:
    send = Recorder()
    now = NOW
    for _ in range(5):  # a minute on, a minute off
        await raise_and_clear(db, [offline()], now)
        await tell(db, [route()], send, now)
        await raise_and_clear(db, [], now + MINUTE)
        await tell(db, [route()], send, now + MINUTE)
        now += 2 * MINUTE
    assert send.sent == [("ops", "Flux, warning: WLCE: METER does not answer")]
    assert await fetch(db, "SELECT times FROM flux.alerts") == [(5,)]
    await tell(db, [route()], send, now + FOLD)
    assert [title for _, title in send.sent[1:]] == ["Flux, over: WLCE: METER does not answer"]
    await raise_and_clear(db, [offline()], now + FOLD + MINUTE)
    await tell(db, [route()], send, now + FOLD + MINUTE)
    assert len(send.sent) == 3


async def test_routes_choose_by_severity_and_site(db: Conn) -> None:
    send = Recorder()
    routes = [route("all"), route("critical", severity=Severity.CRITICAL), route("hmce", sites=("HMCE",))]
    await raise_and_clear(db, [offline(), offline("HMCE", "critical"), Condition("job:x", "info", None, "x")], NOW)
    await tell(db, routes, send, NOW)
    assert sorted((name, title.split(": ")[1]) for name, title in send.sent) == [
        ("all", "HMCE"), ("all", "WLCE"), ("critical", "HMCE"), ("hmce", "HMCE"),
    ]  # fmt: skip
    await tell(db, routes, send, NOW)
    assert len(send.sent) == 4


async def test_one_that_did_not_get_through_is_tried_again_and_the_others_go_out(db: Conn) -> None:
    send = Recorder()
    send.broken = {"wlce"}
    routes = [route("wlce", sites=("WLCE",)), route("hmce", sites=("HMCE",))]
    await raise_and_clear(db, [offline(), offline("HMCE")], NOW)
    with pytest.raises(UnavailableError, match="not today"):
        await tell(db, routes, send, NOW)
    assert [name for name, _ in send.sent] == ["hmce"]
    send.broken = set()
    assert await tell(db, routes, send, NOW) == 1
    assert [name for name, _ in send.sent] == ["hmce", "wlce"]


async def test_an_alert_that_is_over_before_it_was_told_is_not_told(db: Conn) -> None:
    send = Recorder()
    await raise_and_clear(db, [offline()], NOW)
    await raise_and_clear(db, [], NOW + MINUTE)
    await tell(db, [route()], send, NOW + FOLD + 2 * MINUTE)
    assert send.sent == []


# ── files and secrets ──────────────────────────────────────────────────────────────────────────────────────────────

SECRET = "s3cr3t-t0ken"


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "notifications.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "routes: [{name: a, url_env: X}]", 0o640)
    with pytest.raises(InputError, match=r"others may read it \(mode 0640\)"):
        load_notifications(file)
    assert load_notifications(tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    "text",
    [
        f"routes: [{{name: a, url: 'json://{SECRET}', url_env: X}}]",
        f"routes: [{{name: a, url: ['json://{SECRET}']}}]",
        f"routes: [{{name: a, severty: info, url: 'json://{SECRET}'}}]",
        f"routes: [{{name: a, url: 'json://{SECRET}'}}, {{name: a, url: 'json://{SECRET}'}}]",
        f"routes: ['json://{SECRET}']",
        f"routes: json://{SECRET}",
        f"routes: [{{name: a, url_env: X, 'json://{SECRET}': 1}}]",
        f"routes: [{{name: a, url_env: 'json://{SECRET}'}}]",
        f"routes: [{{name: a, url_env: '{SECRET}-'}}]",
        "routes: []",
    ],
)
def test_a_file_that_is_wrong_is_refused_without_its_secrets(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        load_notifications(written(tmp_path, text))
    assert SECRET not in str(caught.value)


@asynccontextmanager
async def webhook(status: str = "200 OK") -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
    """An HTTP server that keeps the JSON it is sent."""
    received: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        received.append(json.loads(await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def test_a_notification_arrives_at_a_webhook(db: Conn) -> None:
    async with webhook() as (port, received):
        send = AppriseSender({"OPS_URL": f"json://127.0.0.1:{port}/{SECRET}"})
        await raise_and_clear(db, [offline()], NOW)
        assert await tell(db, [Route(name="ops", url_env="OPS_URL")], send, NOW) == 1
    assert [(one["title"], one["type"]) for one in received] == [
        ("Flux, warning: WLCE: METER does not answer", "warning")
    ]


async def test_a_webhook_that_refuses_is_told_without_the_secret(
    db: Conn, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with webhook("500 Internal Server Error") as (port, _):
        send = AppriseSender({"OPS_URL": f"json://127.0.0.1:{port}/{SECRET}"})
        await raise_and_clear(db, [offline()], NOW)
        with pytest.raises(UnavailableError, match="route ops: the notification did not get through") as caught:
            await tell(db, [Route(name="ops", url_env="OPS_URL")], send, NOW)
    printed = capfd.readouterr()
    assert SECRET not in f"{caught.value}{printed.out}{printed.err}{caplog.text}"
    with pytest.raises(InputError, match="OPS_URL is not set"):
        await AppriseSender({})(Route(name="ops", url_env="OPS_URL"), Message("t", "b", Severity.INFO))
    with pytest.raises(InputError, match="its URL is none that apprise knows") as unknown:
        await AppriseSender({"X": f"nope-{SECRET}"})(Route(name="o", url_env="X"), Message("t", "b", Severity.INFO))
    assert SECRET not in str(unknown.value)


async def test_a_webhook_that_hangs_is_given_up_and_one_that_breaks_is_told_without_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = Message("t", "b", Severity.INFO)

    async def hang(*_: Any, **__: Any) -> bool:
        await asyncio.Event().wait()
        return True

    async def broken(*_: Any, **__: Any) -> bool:
        raise TypeError(f"no plug-in for json://{SECRET}")

    route = Route(name="ops", url_env="X")
    send = AppriseSender({"X": f"json://127.0.0.1:1/{SECRET}"}, longest_s=0.01)
    monkeypatch.setattr("apprise.Apprise.async_notify", hang)
    with pytest.raises(UnavailableError, match=r"route ops: no answer within 0\.01 s"):
        await send(route, message)
    monkeypatch.setattr("apprise.Apprise.async_notify", broken)
    with pytest.raises(UnavailableError) as caught:
        await send(route, message)
    assert str(caught.value) == "route ops: it failed with TypeError"
    assert caught.value.__suppress_context__
