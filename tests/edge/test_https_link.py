"""What can go wrong between an edge and a URL: each is one clear line, nothing is lost, and no key is told."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import AsyncConnection
from tests.api.live import LiveServer, live_server_on
from tests.edge.between import Between
from tests.edge.fakes import FixedClock, MemoryOutbox, meter_reading
from tests.edge.test_link import add_meter, reading

from flux.edge.alarms import Alarms
from flux.edge.https_link import HttpsLink
from flux.edge.link import KeyRefusedError, PushResult
from flux.edge.recorder import Recorder
from flux.edge.uploader import Uploader
from flux.model import InputError, UnavailableError
from flux.store.batches import decode_batch

KEY = "eyJhbGciOi.the-key-that-nobody-may-see.x"
GOOD = {"stored": 1, "duplicates": 0, "rejected": 0, "refusals": []}


def mocked(answer: Callable[[httpx.Request], httpx.Response]) -> HttpsLink:
    return HttpsLink("WLCE", "https://flux.example/api/", lambda: KEY, transport=httpx.MockTransport(answer))


def page(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, text="<html>Welcome</html>", headers={"content-type": "text/html", **headers})


def told(status: int, word: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": word, "message": message})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page(200), r"something else than Flux does \(text/html\): a proxy or a login page"),
        (page(302, location="https://login.example/"), "sends on to https://login.example/; write that into platform"),
        (page(404), r"does not know this edge's requests \(404\): an older version"),
        (page(426), r"does not know this edge's requests \(426\)"),
        (page(502), r"it failed \(502\)"),
        (told(503, "unavailable", "the database does not answer; try again"), "database does not answer; try again"),
        (httpx.Response(429, json={"message": "slow down"}), r"come back later \(429, slow down\)"),
        (told(422, "input", "record 0 can't be read"), "can't read what this edge sends: record 0"),
        (httpx.Response(200, json=[1]), "something else than Flux does"),
        (httpx.Response(200, json={"stored": 1}), "what it says of a batch can't be read by this version"),
        (page(413), r"a single record is too large for it \(413\)"),
    ],
)
async def test_an_answer_that_is_none_is_one_clear_line(answer: httpx.Response, words: str) -> None:
    link = mocked(lambda _request: answer)
    with pytest.raises(UnavailableError, match=words) as caught:
        await link.push([meter_reading(1)])
    assert str(caught.value).startswith("platform flux.example")
    assert "\n" not in str(caught.value)
    await link.close()


@pytest.mark.parametrize("answer", [told(401, "key", "the key has been revoked"), page(403)])
async def test_a_key_that_is_refused_is_told_apart_and_asked_for_anew(answer: httpx.Response) -> None:
    keys = iter([KEY, "another"])
    seen: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["apikey"])
        return answer if len(seen) == 1 else httpx.Response(200, json=GOOD)

    link = HttpsLink("WLCE", "https://flux.example", lambda: next(keys), transport=httpx.MockTransport(serve))
    with pytest.raises(KeyRefusedError, match="does not let this edge in") as caught:
        await link.push([meter_reading(1)])
    assert KEY not in str(caught.value)
    assert (await link.push([meter_reading(1)])).stored == 1
    assert seen == [KEY, "another"]
    await link.close()


async def test_what_is_too_large_goes_in_halves_and_so_from_then_on() -> None:
    sizes: list[int] = []

    def serve(request: httpx.Request) -> httpx.Response:
        records = decode_batch(gzip.decompress(request.content))
        sizes.append(len(records))
        if len(records) > 3:
            return page(413)
        refusal = {"index": len(records) - 1, "reason": "conflict", "detail": "another is stored"}
        answer = {"stored": len(records) - 1, "duplicates": 0, "rejected": 1, "refusals": [refusal]}
        return httpx.Response(200, json=answer)

    link = mocked(serve)
    result = await link.push([meter_reading(number) for number in range(10)])
    assert result == PushResult(stored=5, rejected=5)
    assert [one.index for one in result.refusals] == [1, 3, 5, 7, 9]
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    before = len(sizes)
    await link.push([meter_reading(number) for number in range(10)])
    assert max(sizes[before:]) <= 3
    await link.close()


async def test_an_answer_cut_short_is_one_clear_line() -> None:
    """Half of a gzip body, and a length that is not kept."""
    packed = gzip.compress(json.dumps(GOOD).encode())[:30]
    heads = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(packed)}\r\n\r\n".encode(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n",
    )
    for head in heads:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes = head) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + packed)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            link = HttpsLink("WLCE", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: KEY)
            with pytest.raises(UnavailableError, match=r"platform 127\.0\.0\.1"):
                await link.push([meter_reading(1)])
            await link.close()


async def test_a_silent_platform_is_given_up_in_time() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        link = HttpsLink("WLCE", url, lambda: KEY, answer_s=0.05)
        with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
            await link.platform_time()
        await link.close()
        await gone.wait()


async def test_nothing_new_that_comes_at_once_is_not_asked_for_in_a_loop() -> None:
    asked = 0

    def serve(_request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(204)

    link = mocked(serve)
    assert await link.control_feed("x", 0.3) is None
    assert asked <= 2
    await link.close()


async def test_the_alarm_says_whether_it_is_the_line_or_the_key() -> None:
    answers = iter([told(401, "key", "the key has been revoked"), page(502), httpx.Response(200, json=GOOD)])
    alarms = Alarms(FixedClock())
    recorder = Recorder(MemoryOutbox(), alarms, 100)
    done = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        raised.append([alarm.key for alarm in alarms.active])

    raised: list[list[str]] = []
    link = mocked(lambda _request: next(answers))
    uploader = Uploader(recorder, link, alarms, 100, sleep=sleep)
    recorder.record([meter_reading(1)])
    await recorder.flush()
    running = asyncio.create_task(uploader.run())
    async with asyncio.timeout(5):
        while recorder.depth:
            await asyncio.sleep(0.01)
    done.set()
    running.cancel()
    assert raised == [["platform_key"], ["platform_away"]]
    assert alarms.active == ()
    await link.close()


@pytest.fixture
async def live(dsn: str) -> AsyncIterator[LiveServer]:
    with live_server_on(dsn) as server:
        yield server


async def test_a_lost_answer_costs_a_second_push_and_nothing_else(live: LiveServer, db: AsyncConnection[Any]) -> None:
    meter = await add_meter(db, "WLCE-GRID-METER", "WLCE")
    batch = [reading(meter, second=second) for second in range(20)]
    async with Between(live.port).running() as line:
        link = HttpsLink("WLCE", line.url, lambda: live.key("edge", ["WLCE"]))
        line.lose_answers = 1
        with pytest.raises(UnavailableError, match=r"platform 127\.0\.0\.1"):
            await link.push(batch)
        assert await link.push(batch) == PushResult(duplicates=20)
        line.cut = True
        line.hang_up()
        with pytest.raises(UnavailableError):
            await link.push(batch)
        line.cut = False
        assert await link.push([*batch[10:], reading(meter, second=30)]) == PushResult(stored=1, duplicates=10)
        await link.close()
    assert await (await db.execute("SELECT count(*) FROM flux.mg_meter_readings")).fetchone() == (21,)


async def test_tls_is_verified_and_may_have_an_authority_of_its_own(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"time": "2026-01-15T17:00:00+00:00"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        strict = HttpsLink("WLCE", url, lambda: KEY)
        with pytest.raises(UnavailableError, match=r"certificate is not trusted \(.*\); name its authority with"):
            await strict.platform_time()
        await strict.close()
        link = HttpsLink("WLCE", url, lambda: KEY, ca_file=str(cert))
        assert (await link.platform_time()).year == 2026
        await link.close()
    with pytest.raises(InputError, match="not a file of certificates in PEM"):
        HttpsLink("WLCE", url, lambda: KEY, ca_file=str(key.with_name("nothing.pem")))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert, key
