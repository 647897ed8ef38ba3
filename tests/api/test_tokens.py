"""Keys: what is issued verifies, and nothing that was made in another way does."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.api.identity import Role
from flux.api.tokens import SKEW, TokenError, Verifier, issue_token
from flux.errors import InputError

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
SECRET = b"a secret of this installation, long enough"
KEY_ID = UUID("7c0a1b0e-3f0f-4a3e-9a58-0d3f1f6f2a11")
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class OneSet:
    """Public keys that are at hand."""

    def __init__(self, **keys: jwt.PyJWK) -> None:
        self.keys = keys
        self.version = 0

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK:
        found = self.keys.get(kid or "")
        if found is None or found.algorithm_name != algorithm:
            raise TokenError("no such key")
        return found


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public(key: Any, algorithm: str) -> jwt.PyJWK:
    library = jwt.get_algorithm_by_name(algorithm)
    return jwt.PyJWK({**json.loads(library.to_jwk(key.public_key())), "alg": algorithm})


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def verifier(clock: Clock | None = None, **options: Any) -> Verifier:
    return Verifier([SECRET], clock or Clock(), **options)


OURS = {"iss": "flux", "role": "authenticated", "jti": str(KEY_ID)}
THEIRS = {"iss": "https://id.example", "aud": "flux", "role": "authenticated", "exp": NOW.timestamp() + 3600}


async def test_what_is_issued_says_who_it_is() -> None:
    token = issue_token(
        SECRET,
        role=Role.OPERATOR,
        name="control room",
        issued_at=NOW,
        sites=["WLCE", "HMCE"],
        key_id=KEY_ID,
        expires_at=NOW + HOUR,
    )
    identity = await verifier().verify(token)
    assert (identity.role, identity.key_id) == (Role.OPERATOR, KEY_ID)
    assert identity.sites == frozenset({"WLCE", "HMCE"})
    assert (identity.name, identity.expires_at) == ("control room", NOW + HOUR)
    assert identity.claims["sites"] == ["HMCE", "WLCE"]


async def test_a_key_without_sites_is_for_every_site_and_a_single_one_is_a_list() -> None:
    assert (await verifier().verify(signed(OURS))).sites is None
    one = await verifier().verify(signed({**OURS, "site": "WLCE"}))
    assert one.sites == frozenset({"WLCE"})
    assert one.claims["sites"] == ["WLCE"]
    assert "site" not in one.claims


async def test_supabases_service_role_is_our_service() -> None:
    claims = {"iss": "supabase", "role": "service_role", "exp": NOW.timestamp() + 3600}
    identity = await verifier().verify(signed(claims))
    assert (identity.role, identity.sites, identity.claims["role"]) == (Role.SERVICE, None, "service")


async def test_a_token_of_another_issuer_sees_only_what_it_names() -> None:
    async def sites(**claims: Any) -> frozenset[str] | None:
        identity = await verifier().verify(signed({**THEIRS, **claims}))
        assert identity.key_id is None
        return identity.sites

    assert await sites() == frozenset()
    assert await sites(sites=["WLCE"]) == frozenset({"WLCE"})
    assert await sites(sites="*") is None
    assert await sites(jti=str(KEY_ID)) == frozenset()


async def test_it_expires_while_it_is_remembered() -> None:
    clock = Clock()
    checks = verifier(clock)
    token = issue_token(SECRET, role=Role.SERVICE, name="x", issued_at=NOW, expires_at=NOW + HOUR)
    await checks.verify(token)
    clock.now = NOW + HOUR + SKEW - timedelta(seconds=1)
    await checks.verify(token)
    clock.now = NOW + HOUR + SKEW
    with pytest.raises(TokenError, match="expired"):
        await checks.verify(token)


async def test_one_for_later_is_not_valid_yet() -> None:
    clock = Clock()
    token = signed({**OURS, "nbf": (NOW + HOUR).timestamp()})
    with pytest.raises(TokenError, match="not valid yet"):
        await verifier(clock).verify(token)
    clock.now = NOW + HOUR
    await verifier(clock).verify(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "flux", "role": "authenticated"},  # for ever, and not to be revoked
        {**THEIRS, "exp": None},
        {**OURS, "jti": "session-17"},
        {**OURS, "jti": 17},
        {**OURS, "role": "superuser"},
        {**OURS, "role": ["service"]},
        {**OURS, "role": None},
        {**OURS, "role": "edge"},
        {**OURS, "role": "edge", "sites": []},
        {**OURS, "sites": {"WLCE": True}},
        {**OURS, "sites": ["WLCE", 3]},
        {**OURS, "sites": [""]},
        {**OURS, "exp": "tomorrow"},
        {**OURS, "exp": True},
        {**OURS, "exp": 1e400},
        {**OURS, "exp": 10**30},
        {**OURS, "exp": NOW.timestamp() - 3600},
    ],
)
async def test_a_payload_that_says_nothing_we_know_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        await verifier().verify(signed(claims))


async def test_nothing_verifies_that_another_key_signed(rsa_key: rsa.RSAPrivateKey) -> None:
    keys = OneSet(one=public(rsa_key, "RS256"))
    other = rsa.generate_private_key(65537, 2048)
    for token in (
        signed(OURS, b"the secret of another installation, too"),
        signed(THEIRS, other, "RS256", kid="one"),
        signed(THEIRS, rsa_key, "RS256", kid="two"),
        signed(THEIRS, rsa_key, "RS512", kid="one"),
        signed(THEIRS, rsa_key, "PS256", kid="one"),
        signed(OURS, SECRET + b"0" * 64, "HS512"),
    ):
        with pytest.raises(TokenError):
            await verifier(public_keys=keys).verify(token)


async def test_a_public_key_is_no_secret(rsa_key: rsa.RSAPrivateKey) -> None:
    """The oldest trick: sign with HS256 and what everybody knows, and hope that the server mixes them up."""
    keys = OneSet(one=public(rsa_key, "RS256"))
    pem = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"one"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(THEIRS).encode()).rstrip(b"=")
    import hashlib
    import hmac

    mark = base64.urlsafe_b64encode(hmac.digest(pem, head + b"." + body, hashlib.sha256)).rstrip(b"=")
    with pytest.raises(TokenError, match="signature"):
        await verifier(public_keys=keys).verify(b".".join((head, body, mark)).decode())


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {},
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": True},
        {"alg": "HS256", "b64": False},
        {"alg": "RS256", "kid": "one"},  # no public keys here
    ],
)
async def test_the_header_decides_nothing(header: dict[str, Any]) -> None:
    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    import hashlib
    import hmac

    text = part(header) + b"." + part(OURS)
    right = base64.urlsafe_b64encode(hmac.digest(SECRET, text, hashlib.sha256)).rstrip(b"=")
    for mark in (b"", right):
        with pytest.raises(TokenError):
            await verifier().verify(b".".join((text, mark)).decode())


async def test_rs256_and_es256_by_public_keys(rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> None:
    keys = OneSet(r=public(rsa_key, "RS256"), e=public(ec_key, "ES256"))
    checks = verifier(public_keys=keys, issuer="https://id.example", audience="flux")
    claims = {**THEIRS, "sites": ["WLCE"], "sub": "ada"}
    for token in (signed(claims, rsa_key, "RS256", kid="r"), signed(claims, ec_key, "ES256", kid="e")):
        identity = await checks.verify(token)
        assert (identity.name, identity.sites) == ("ada", frozenset({"WLCE"}))
        keys.version += 1  # the key was withdrawn: what it signed before is looked at again
        kept, keys.keys = keys.keys, {}
        with pytest.raises(TokenError):
            await checks.verify(token)
        keys.keys = kept


@pytest.mark.parametrize("changed", [{"iss": "https://else.example"}, {"iss": "flux"}, {"aud": "other"}, {"aud": None}])
async def test_another_issuers_token_for_somebody_else_is_refused(
    rsa_key: rsa.RSAPrivateKey, changed: dict[str, Any]
) -> None:
    keys = OneSet(r=public(rsa_key, "RS256"))
    checks = verifier(public_keys=keys, issuer="https://id.example", audience="flux")
    with pytest.raises(TokenError):
        await checks.verify(signed({**THEIRS, "aud": ["flux", "x"]} | changed, rsa_key, "RS256", kid="r"))


async def test_a_secret_that_was_replaced_still_verifies() -> None:
    token = issue_token(SECRET, role=Role.SERVICE, name="old", issued_at=NOW, key_id=KEY_ID)
    both = Verifier([b"the newest secret of this installation", SECRET], Clock())
    assert (await both.verify(token)).name == "old"


def test_a_key_that_would_be_refused_is_not_issued() -> None:
    with pytest.raises(InputError, match="must name its site"):
        issue_token(SECRET, role=Role.EDGE, name="x", issued_at=NOW, key_id=KEY_ID)
    with pytest.raises(InputError, match="no exp"):
        issue_token(SECRET, role=Role.SERVICE, name="x", issued_at=NOW)


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.text(), st.lists(st.text(alphabet="aA1-_=. e", max_size=12), max_size=5).map(".".join)))
async def test_any_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(TokenError) as refused:
        await verifier().verify(text)
    assert len(text) < 8 or text not in str(refused.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
async def test_any_change_of_a_key_is_noticed(data: st.DataObject) -> None:
    token = signed(OURS)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCabc019-_.=").filter(lambda c: c != token[place]))
    with pytest.raises(TokenError):
        await verifier().verify(token[:place] + other + token[place + 1 :])
