"""Keys at the door: where they may be, what is answered without one, and that none is ever repeated."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.api.live import LiveServer, key

from flux.api.access import Sent, keys_of, take_from_url
from flux.api.tokens import TokenError


@pytest.fixture
async def http(module_server: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=module_server.url) as client:
        yield client


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/redoc", "/openapi.json"])
async def test_health_and_docs_need_no_key(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 200
    assert (await http.get(path, headers={"apikey": "nonsense"})).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/devices", "/metrics", "/rest/v1/sites", "/nothing", "/", "/healthz/", "//healthz"]
)
async def test_everything_else_needs_one(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="flux"'
    assert "no key" in answer.json()["message"]


@pytest.mark.parametrize("header", ["apikey", "Authorization"])
async def test_one_header_is_enough(http: httpx.AsyncClient, header: str) -> None:
    token = key("authenticated")
    value = f"Bearer {token}" if header == "Authorization" else token
    assert (await http.get("/v1/devices", headers={header: value})).status_code == 200


async def test_both_headers_are_verified(http: httpx.AsyncClient) -> None:
    good, other, bad = key("authenticated"), key("operator"), key("service")[:-4] + "AAAA"

    async def status(apikey: str, bearer: str) -> int:
        headers = {"apikey": apikey, "Authorization": f"Bearer {bearer}"}
        return (await http.get("/v1/devices", headers=headers)).status_code

    assert [await status(good, other), await status(bad, good), await status(good, bad)] == [200, 401, 401]


async def test_a_wrong_key_is_told_why_and_not_repeated(http: httpx.AsyncClient) -> None:
    token = key("service")[:-4] + "AAAA"
    answer = await http.get("/rest/v1/sites", headers={"apikey": token})
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["code"] == "PGRST301"
    assert token[-20:] not in answer.text


async def test_a_key_in_the_url_counts_on_sockets_alone(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/devices", params={"apikey": key("service")})
    assert answer.status_code == 401
    assert "sockets alone" in answer.json()["message"]


@pytest.mark.parametrize(
    ("query", "left", "found"),
    [
        (b"apikey=abc&vsn=1.0.0", b"vsn=1.0.0", "abc"),
        (b"vsn=1.0.0&apikey=a%2Eb", b"vsn=1.0.0", "a.b"),
        (b"a=1&APIKEY=x&b=2", b"a=1&b=2", "x"),
        (b"ap%69key=abc", b"", "abc"),
        (b"apikey", b"", ""),
        (b"site=eq.apikey", b"site=eq.apikey", None),
        (b"", b"", None),
    ],
)
def test_a_key_is_taken_out_of_the_url(query: bytes, left: bytes, found: str | None) -> None:
    scope = {"query_string": query}
    assert take_from_url(scope) == found
    assert scope["query_string"] == left


def test_headers_that_contradict_each_other_are_refused() -> None:
    assert keys_of([(b"apikey", b"a"), (b"apikey", b"a"), (b"authorization", b"bearer  b ")]) == Sent("b", "a")
    for headers in (
        [(b"apikey", b"a"), (b"apikey", b"b")],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"x")],
    ):
        with pytest.raises(TokenError):
            keys_of(headers)
