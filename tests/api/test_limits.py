"""Limits as a caller meets them: requests, bodies, heads and sockets; and what each answer tells."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from tests.api.live import LiveServer, live_server_on
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flux.api.answers import refuse
from flux.api.identity import ANONYMOUS, Identity, Role
from flux.api.limits import Limiter, Limits, TooManySocketsError, address_of, caller_of
from flux.api.serving import Listening
from flux.api.uploads import GRACE_S, Uploads
from flux.config import Settings
from flux.errors import InputError


@pytest.fixture(scope="module")
def strict(module_dsn: str) -> Iterator[LiveServer]:
    """Limits that are soon reached."""
    with live_server_on(
        module_dsn,
        rate_anon="60/6",
        rate_authenticated="60/4",
        rate_operator="60/4",
        cors_origins="https://a.example",
    ) as live:
        yield live


def test_each_answer_tells_the_limit_and_the_last_one_when_to_come_back(strict: LiveServer) -> None:
    headers = strict.headers("authenticated", name="one of four")
    with httpx.Client(base_url=strict.url, headers=headers) as http:
        answers = [http.get("/v1/devices") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"4"}
    assert answers[4].headers["retry-after"] == "1"
    assert "come back in 1 s" in answers[4].json()["message"]
    other = httpx.get(f"{strict.url}/v1/devices", headers=strict.headers("operator", name="another"))
    assert (other.status_code, other.headers["x-ratelimit-remaining"]) == (200, "3")


def test_who_has_no_key_is_limited_by_address_and_health_is_not(strict: LiveServer) -> None:
    with httpx.Client(base_url=strict.url) as http:
        statuses = [http.get("/v1/devices", headers={"apikey": "x"}).status_code for _ in range(8)]
        assert statuses[-1] == 429
        assert set(statuses) == {401, 429}
        assert http.get("/docs").status_code == 429
        assert {http.get("/healthz").status_code for _ in range(20)} == {200}
        assert http.get("/v1/devices", headers=strict.headers("service")).status_code == 200


def test_pages_of_listed_origins_may_call(strict: LiveServer) -> None:
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "apikey,authorization,prefer"}
    good = httpx.options(f"{strict.url}/rest/v1/sites", headers={"Origin": "https://a.example", **asked})
    assert good.headers["access-control-allow-origin"] == "https://a.example"
    assert "apikey" in good.headers["access-control-allow-headers"]
    bad = httpx.options(f"{strict.url}/rest/v1/sites", headers={"Origin": "https://b.example", **asked})
    assert "access-control-allow-origin" not in bad.headers
    keyed = {**strict.headers("service"), "Origin": "https://a.example"}
    answer = httpx.get(f"{strict.url}/v1/devices", headers=keyed)
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


def test_a_body_that_is_too_long_is_refused_whether_or_not_it_says_so(dsn: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    with live_server_on(dsn, max_body_mb=0.01) as live:
        for body in (b"x" * 20_000, pieces()):
            answer = httpx.post(f"{live.url}/v1/webhooks/dispatch/axle", content=body)
            assert answer.status_code == 413, answer.text
            assert "0.01 MB" in answer.json()["message"]


def test_a_request_keeps_its_id_and_gets_one(strict: LiveServer) -> None:
    given = httpx.get(f"{strict.url}/healthz", headers={"X-Request-Id": "proxy-17"})
    assert given.headers["x-request-id"] == "proxy-17"
    wild = httpx.get(f"{strict.url}/healthz", headers={"X-Request-Id": "a b\tc"})
    assert len(wild.headers["x-request-id"]) == 16


def raw(live: LiveServer, data: bytes) -> bytes:
    """What the server says to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        with suppress(ConnectionError):  # it was closed while we were still sending, which is what it should do
            connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (HEAD + b"X: " + b"a" * 99_000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 100_000, 431),
        (HEAD + b"".join(b"X%d: a\r\n" % n for n in range(12_000)), 431),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_a_head_that_is_too_long_or_none_is_refused(module_server: LiveServer, data: bytes, status: int) -> None:
    answer = raw(module_server, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert "message" in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_head_that_does_not_come_is_not_waited_for(dsn: str) -> None:
    with live_server_on(dsn, listening=Listening(head_within_s=0.05)) as live:
        assert raw(live, HEAD).startswith(b"HTTP/1.1 408 ")
        assert raw(live, b"").startswith(b"HTTP/1.1 408 ")
        assert httpx.get(f"{live.url}/healthz").status_code == 200


# ---- bodies, as an application behind meets them


class Caller:
    """Sends the pieces of a body, and reads the answer."""

    def __init__(self, *pieces: bytes, headers: dict[str, str] | None = None) -> None:
        self.pieces = list(pieces)
        self.answer: list[Message] = []
        self.headers = [(k.encode(), v.encode()) for k, v in (headers or {"transfer-encoding": "chunked"}).items()]

    @property
    def scope(self) -> Scope:
        return {"type": "http", "method": "POST", "path": "/x", "headers": self.headers}

    async def receive(self) -> Message:
        if not self.pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.pieces.pop(0), "more_body": bool(self.pieces)}

    async def send(self, message: Message) -> None:
        self.answer.append(message)

    @property
    def status(self) -> int:
        return int(self.answer[0]["status"])

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.answer[1:])


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def careless(scope: Scope, receive: Receive, send: Send) -> None:
    """As frameworks do: what goes wrong with the body becomes an answer of its own."""
    try:
        await echo(scope, receive, send)
    except Exception:  # noqa: BLE001 - that is what is tried here
        await refuse(scope, receive, send, 400, "could not read it")


async def through(caller: Caller, app: Any = echo, most: int = 100_000) -> Caller:
    await Uploads(app, most, lambda: 0.0)(caller.scope, caller.receive, caller.send)
    return caller


GZIP = {"content-encoding": "gzip", "transfer-encoding": "chunked"}
TEXT = b"what was read, " * 5000


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
async def test_gzip_is_unpacked_however_it_is_cut(size: int) -> None:
    packed = gzip.compress(TEXT)
    caller = await through(Caller(*(packed[i : i + size] for i in range(0, len(packed), size)), headers=GZIP))
    assert (caller.status, caller.text == TEXT) == (200, True)


@pytest.mark.parametrize("app", [echo, careless])
async def test_a_bomb_is_refused_at_the_limit_and_not_unpacked_any_further(app: Any) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    unpacked = 0

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            nonlocal unpacked
            message = await receive()
            unpacked += len(message.get("body", b""))
            return message

        await app(scope, counted, send)

    caller = await through(Caller(bomb, headers=GZIP), counting)
    assert caller.status == 413
    assert unpacked <= 100_000


@pytest.mark.parametrize(
    "pieces",
    [
        [gzip.compress(TEXT)[:-9]],
        [gzip.compress(TEXT)[:50], gzip.compress(TEXT)[50:60]],
        [gzip.compress(TEXT) + b"more"],
        [gzip.compress(TEXT), b"more"],
        [b"no gzip"],
        [b""],
    ],
)
async def test_gzip_that_is_not_whole_is_refused(pieces: list[bytes]) -> None:
    assert (await through(Caller(*pieces, headers=GZIP), careless)).status == 400


async def test_other_packings_are_refused() -> None:
    assert (await through(Caller(b"x", headers={**GZIP, "content-encoding": "br"}))).status == 415


async def test_a_body_that_comes_too_slowly_is_refused_by_how_long_it_takes_in_all() -> None:
    now = 0.0

    class Slow(Caller):
        async def receive(self) -> Message:
            nonlocal now
            now += GRACE_S / 2
            if now > GRACE_S:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": b"x", "more_body": True}

    caller = Slow(b"")
    await asyncio.wait_for(Uploads(careless, 10**6, lambda: now)(caller.scope, caller.receive, caller.send), 10)
    assert caller.status == 408


async def test_a_bug_behind_is_not_mistaken_for_a_bad_body() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await through(Caller(b"x"), broken)


# ---- who counts as one caller


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("a name", 1), "a name"),
        (None, "local"),
    ],
)
def test_an_address_is_one_subscribers(client: Any, address: str) -> None:
    assert address_of({"client": client}) == address


def test_users_of_another_issuer_are_counted_each_and_the_same_user_once() -> None:
    def user(sub: str, **claims: Any) -> Any:
        return caller_of({}, Identity(Role.AUTHENTICATED, name=sub, claims={"iss": "i", "sub": sub, **claims}))

    assert user("ada", exp=1) == user("ada", exp=2) != user("bob")


def test_sockets_are_counted_by_caller_and_in_all() -> None:
    limiter = Limiter(Limits({}, 1, sockets=3, sockets_per_caller=2), lambda: 0.0)
    one, two = ({"client": (host, 1)} for host in ("192.0.2.1", "192.0.2.2"))
    with limiter.socket(one, ANONYMOUS), limiter.socket(one, ANONYMOUS):
        with pytest.raises(TooManySocketsError, match="2 sockets"), limiter.socket(one, ANONYMOUS):
            pass
        with (
            limiter.socket(two, ANONYMOUS),
            pytest.raises(TooManySocketsError, match="no room"),
            limiter.socket(two, ANONYMOUS),
        ):
            pass
    with limiter.socket(one, ANONYMOUS), limiter.socket(one, ANONYMOUS):
        pass


def test_a_limit_that_is_none_names_its_variable() -> None:
    with pytest.raises(InputError, match="FLUX_RATE_EDGE: 'plenty'"):
        Limits.from_settings(Settings(rate_edge="plenty"))


# ---- sockets, as a client opens them


def test_a_key_has_so_many_sockets_and_its_url_is_in_no_log(dsn: str, capfd: pytest.CaptureFixture[str]) -> None:
    with live_server_on(dsn, max_sockets_per_key=2, access_log=True) as live:
        token = live.key("authenticated", name="two sockets")
        url = f"ws://127.0.0.1:{live.port}/realtime/v1/websocket?apikey={token}&vsn=1.0.0"
        with connect(url), connect(url):
            with pytest.raises(InvalidStatus) as refused:
                connect(url)
            assert refused.value.response.status_code == 429
            assert b"2 sockets" in refused.value.response.body
            with connect(url.replace(token, live.key("authenticated", name="another"))):
                pass
        for attempt in range(100):  # what was closed is free again, as soon as the server has seen it
            with suppress(InvalidStatus), connect(url):
                break
            assert attempt < 99
        for wrong in (token[:-4] + "AAAA", ""):
            with pytest.raises(InvalidStatus) as refused:
                connect(url.replace(token, wrong))
            assert refused.value.response.status_code == 401
    told = "".join(capfd.readouterr())
    assert "/realtime/v1/websocket" in told
    assert token[-30:] not in told
    assert "ERROR" not in told
