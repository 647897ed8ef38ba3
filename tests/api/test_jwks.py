"""Public keys of another issuer: fetched when needed, seldom, and kept while the issuer is away."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from flux.api.jwks import ASK_EVERY_S, KEPT_S, JwksKeys, parse_jwks, public_keys
from flux.api.tokens import TokenError
from flux.config import Settings
from flux.errors import InputError, UnavailableError


def entry(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    return {**json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())), **more}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return entry(ec.generate_private_key(ec.SECP256R1()), "ES256", kid="one")


@pytest.fixture(scope="module")
def two() -> dict[str, Any]:
    return entry(rsa.generate_private_key(65537, 2048), "RS256", kid="two", use="sig", alg="RS256")


class Issuer:
    """Counts how often it is asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.away = False
        self.now = 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.away:
            raise UnavailableError("away")
        return json.dumps({"keys": self.keys}).encode()

    def held(self) -> JwksKeys:
        return JwksKeys(self.load, lambda: self.now)


async def test_a_new_key_is_found_and_an_unknown_one_asks_once_a_minute(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    issuer = Issuer(one)
    held = issuer.held()
    assert (await held.find("ES256", "one")).key_id == "one"
    for _ in range(50):
        with pytest.raises(TokenError):
            await held.find("RS256", "two")
    assert issuer.asked == 1
    issuer.keys.append(two)
    issuer.now = ASK_EVERY_S
    assert (await held.find("RS256", "two")).key_id == "two"
    assert (issuer.asked, held.version) == (2, 2)


async def test_many_that_wait_ask_once(one: dict[str, Any]) -> None:
    issuer = Issuer(one)
    held = issuer.held()
    issuer.gate.clear()
    waiting = [asyncio.create_task(held.find("ES256", "one")) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    issuer.gate.set()
    found = await asyncio.gather(*waiting[1:])
    assert (len(found), issuer.asked) == (19, 1)


async def test_nobody_waits_while_keys_are_looked_at_again_and_a_withdrawn_one_goes(one: dict[str, Any]) -> None:
    issuer = Issuer(one)
    held = issuer.held()
    await held.find("ES256", "one")
    issuer.now, issuer.keys = KEPT_S, []
    issuer.gate.clear()
    await held.find("ES256", "one")  # the one from before, at once
    issuer.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(TokenError):
        await held.find("ES256", "one")
    assert issuer.asked == 2


async def test_an_issuer_that_is_away_changes_nothing(one: dict[str, Any]) -> None:
    issuer = Issuer(one)
    held = issuer.held()
    await held.find("ES256", "one")
    issuer.now, issuer.away = 10 * KEPT_S, True
    await held.find("ES256", "one")
    await asyncio.sleep(0)
    await held.find("ES256", "one")
    assert held.version == 1


async def test_a_token_without_kid_gets_the_only_key(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (await Issuer(one, two).held().find("ES256", None)).key_id == "one"
    other = {**one, "kid": "three"}
    with pytest.raises(TokenError):
        await Issuer(one, other).held().find("ES256", None)


async def test_a_key_is_for_its_own_algorithm_alone(one: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        await Issuer(one).held().find("RS256", "one")


def test_keys_that_are_weak_secret_or_for_something_else_are_left_out(one: dict[str, Any], two: dict[str, Any]) -> None:
    weak = entry(rsa.generate_private_key(65537, 1024), "RS256", kid="weak")
    wide = entry(ec.generate_private_key(ec.SECP384R1()), "ES384", kid="wide")
    other = entry(ed25519.Ed25519PrivateKey.generate(), "EdDSA", kid="other")
    shared = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "shared", "alg": "HS256"}
    sealing = {**two, "kid": "sealing", "use": "enc"}
    lying = {**two, "kid": "lying", "alg": "HS256"}
    broken = {"kty": "RSA", "n": "AQAB", "kid": "broken"}
    keys = parse_jwks(json.dumps({"keys": [one, weak, wide, other, shared, sealing, lying, broken, two]}).encode())
    assert set(keys) == {"one", "two"}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys": 3}', b'{"keys": [1]}', b'{"keys": [{}]}', b"[" * 10**5])
def test_what_is_no_set_of_keys_is_refused(text: bytes) -> None:
    with pytest.raises(InputError):
        parse_jwks(text)


@pytest.fixture
def served(one: dict[str, Any]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": [one]}).encode() if self.path == "/keys" else b"x" * 300_000
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_from_a_url_and_from_a_file(served: str, one: dict[str, Any], tmp_path: Path) -> None:
    def held(**settings: Any) -> Any:
        return public_keys(Settings(**settings), lambda: 0.0)

    assert (await held(jwks_url=f"{served}/keys").find("ES256", "one")).key_id == "one"
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [one]}))
    assert (await held(jwks_file=file).find("ES256", "one")).key_id == "one"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        away = f"http://127.0.0.1:{nobody.getsockname()[1] + 1}"
    for bad in ({"jwks_url": f"{served}/long"}, {"jwks_url": away}, {"jwks_file": tmp_path / "none"}):
        with pytest.raises(TokenError):
            await held(**bad).find("ES256", "one")
    assert held() is None


@pytest.mark.parametrize("url", ["http://id.example/keys", "ftp://127.0.0.1/keys", "file:///etc/passwd", "keys"])
def test_a_url_that_others_could_change_on_its_way_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="https"):
        public_keys(Settings(jwks_url=url), lambda: 0.0)
