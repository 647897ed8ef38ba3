"""The server around the application: TLS, a proxy in front, the gateway's login, and how it stops."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg import AsyncConnection
from pydantic import SecretStr
from starlette.requests import Request
from tests.api.live import LiveServer, live_server_on

from flux.api.serving import Listening
from flux.config import Settings
from flux.errors import InputError, RefusedError
from flux.local.ports import require_safe, url_of
from flux.local.serve import login


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_with_tls_keys_go_over_an_encrypted_line_alone(module_dsn: str, certificate: tuple[Path, Path]) -> None:
    with live_server_on(module_dsn, listening=Listening(tls_cert=certificate[0], tls_key=certificate[1])) as live:
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        answer = httpx.get(f"{live.url}/v1/devices", headers=live.headers(), verify=trusting)
        assert (answer.status_code, answer.url.scheme) == (200, "https")
        with pytest.raises(httpx.HTTPError):
            httpx.get(live.url.replace("https", "http") + "/healthz")


def test_an_address_that_others_reach_needs_tls_or_a_proxy(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with pytest.raises(InputError, match="--behind-proxy"):
        require_safe(Settings(http_host="0.0.0.0"))
    with pytest.raises(InputError, match="go together"):
        require_safe(Settings(tls_cert=cert))
    with pytest.raises(InputError, match="no certificate with its key"):
        require_safe(Settings(tls_cert=key, tls_key=key))
    require_safe(Settings(http_host="0.0.0.0", behind_proxy=True))
    require_safe(Settings(http_host="0.0.0.0", tls_cert=cert, tls_key=key))
    require_safe(Settings(http_host="::1"))
    assert url_of(Settings(http_host="::", http_port=1, tls_cert=cert, tls_key=key)) == "https://[::1]:1"


@pytest.mark.parametrize(("proxies", "statuses"), [(["127.0.0.1"], [401, 401, 429]), ([], [401, 429, 429])])
def test_the_address_is_what_a_trusted_proxy_says(dsn: str, proxies: list[str], statuses: list[int]) -> None:
    with live_server_on(dsn, rate_anon="1/1", listening=Listening(proxies=proxies)) as live:
        callers = ["192.0.2.1", "192.0.2.2", "198.51.100.9, 192.0.2.1"]
        answers = [httpx.get(f"{live.url}/v1/devices", headers={"X-Forwarded-For": one}) for one in callers]
    assert [answer.status_code for answer in answers] == statuses


@pytest.fixture
def slow(dsn: str) -> Iterator[tuple[LiveServer, threading.Event]]:
    """A server with an endpoint that takes a while, and says when it has begun."""
    begun = threading.Event()
    with live_server_on(dsn) as live:

        @live.app.get("/slow")
        async def answer_late(request: Request) -> str:
            begun.set()
            while not live.app.state.stopping:
                await asyncio.sleep(0.01)
            return "whole"

        live.app.state.stopping = False
        yield live, begun


def test_a_request_that_is_open_ends_before_the_server_does(slow: tuple[LiveServer, threading.Event]) -> None:
    live, begun = slow
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{live.url}/slow", headers=live.headers())))
    asking.start()
    assert begun.wait(10)
    live.app.state.end_waiting = lambda: setattr(live.app.state, "stopping", True)
    live.stop()
    asking.join(10)
    assert [answer.text for answer in answers] == ['"whole"']
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{live.url}/healthz")


def test_the_owner_of_the_tables_is_no_login_for_the_api(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="may do more than the HTTP API should"):
        login(Settings(home=tmp_path, database_url=SecretStr(dsn), api_database_url=SecretStr(dsn)))
    made = login(Settings(home=tmp_path, database_url=SecretStr(dsn)))
    assert "flux_gateway" in made
    alone = Settings(home=tmp_path / "other", api_database_url=SecretStr(made))
    assert login(alone) == made, "a server may know the gateway's login and nothing else"


async def test_a_user_of_another_issuer_sees_the_sites_that_the_token_names(
    dsn: str, db: AsyncConnection[Any], tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{**public, "kid": "k"}]}))
    await db.execute("INSERT INTO flux.sites (site) VALUES ('WLCE'), ('HMCE')")
    claims = {"iss": "https://id.example", "sub": "ada", "role": "authenticated", "exp": 4102444800}

    def seen(live: LiveServer, **more: Any) -> Any:
        token = jwt.encode(claims | more, key, algorithm="ES256", headers={"kid": "k"})
        answer = httpx.get(f"{live.url}/rest/v1/sites?select=site", headers={"Authorization": f"Bearer {token}"})
        return answer.json() if answer.is_success else answer.status_code

    with live_server_on(dsn, jwks_file=file, jwt_issuer="https://id.example") as live:
        assert await asyncio.to_thread(seen, live, sites=["WLCE"]) == [{"site": "WLCE"}]
        assert await asyncio.to_thread(seen, live) == []
        assert len(await asyncio.to_thread(seen, live, sites="*")) == 2
        assert await asyncio.to_thread(seen, live, iss="https://else.example") == 401
        assert await asyncio.to_thread(seen, live, exp=1) == 401
