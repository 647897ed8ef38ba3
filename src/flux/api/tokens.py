"""Keys are JWTs: issued with the installation's secret, verified with it or with another issuer's public keys.

The payload of a key, as :func:`issue_token` writes it::

    {"iss": "flux", "role": "operator", "sites": ["WLCE"], "name": "control room", "jti": "<uuid>", "iat": 1768478400}

- ``role`` is one of ours; Supabase's ``service_role`` counts as ``service``.
- ``sites`` absent: every site. A single ``site`` counts as one in ``sites``.
- ``jti`` is the key's id in ``flux.api_keys``, where it can be revoked; the database looks at each request.

A token is good for ever only if it can be revoked: one without ``jti`` needs an ``exp``. A token that Flux did not
issue (another ``iss``) sees the sites that it names and no more, unless its role is ``service`` or it says
``"sites": "*"``: an identity provider's users must not see a fleet because nobody thought of them.

The algorithm belongs to the key, never to the token: HS256 is tried with secrets alone, RS256 with RSA keys and ES256
with P-256 keys of a JWKS. ``none``, ``crit`` and everything else is refused.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol
from uuid import UUID

import jwt

from flux.api.identity import Identity, Role
from flux.errors import InputError, RefusedError

ISSUER = "flux"
SKEW = timedelta(seconds=10)
"""How far another issuer's clock may be from ours."""
LONGEST_TOKEN = 8192
_REMEMBERED = 4096
_SUPABASE_SERVICE = "service_role"
_EVERY_SITE = "*"
_NOT_CHECKED_BY_LIBRARY = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}


class TokenError(RefusedError):
    """The key is not valid; over HTTP this is 401. Says why, and never repeats the key."""


class PublicKeys(Protocol):
    """Another issuer's keys; see :mod:`flux.api.jwks`."""

    @property
    def version(self) -> int:
        """Counts up when the set has changed, so that what was verified by the old one is verified again."""

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK:
        """The key for ``algorithm`` that is called ``kid``; TokenError where there is none."""


def issue_token(
    secret: bytes,
    *,
    role: Role,
    name: str,
    issued_at: datetime,
    sites: Iterable[str] | None = None,
    key_id: UUID | None = None,
    expires_at: datetime | None = None,
) -> str:
    """A key, signed with HS256; ``sites`` None: every site. InputError for one that :class:`Verifier` would refuse."""
    claims: dict[str, Any] = {"iss": ISSUER, "role": role.value, "name": name, "iat": int(issued_at.timestamp())}
    if sites is not None:
        claims["sites"] = sorted(sites)
    if key_id is not None:
        claims["jti"] = str(key_id)
    if expires_at is not None:
        claims["exp"] = int(expires_at.timestamp())
    try:
        identity_from(claims)
    except TokenError as error:
        raise InputError(str(error)) from None
    return jwt.encode(claims, secret, algorithm="HS256")


def identity_from(payload: Mapping[str, Any]) -> Identity:
    """Who a verified payload says it is; TokenError where it says nothing that we know. Times are not compared."""
    ours = payload.get("iss") == ISSUER
    role = _role(payload.get("role"))
    sites = _sites(payload, every_by_default=ours or role is Role.SERVICE)
    if role is Role.EDGE and not sites:
        raise TokenError("the key of an edge must name its site")
    key_id = _key_id(payload["jti"]) if ours and "jti" in payload else None
    expires_at = _instant(payload, "exp")
    if expires_at is None and key_id is None:
        raise TokenError("the key has no exp, and no jti by which it could be revoked")
    claims = {name: value for name, value in payload.items() if name not in ("site", "sites")}
    claims["role"] = role.value
    if sites is not None:
        claims["sites"] = sorted(sites)
    name = payload.get("name") or payload.get("sub") or role.value
    return Identity(role, sites, key_id, str(name)[:200], expires_at, claims)


def _role(given: Any) -> Role:
    try:
        return Role.SERVICE if given == _SUPABASE_SERVICE else Role(given)
    except ValueError:
        raise TokenError("the key's role is none that Flux knows") from None


def _sites(payload: Mapping[str, Any], *, every_by_default: bool) -> frozenset[str] | None:
    named = payload.get("sites", payload.get("site"))
    if named is None:
        return None if every_by_default else frozenset()
    if named in (_EVERY_SITE, [_EVERY_SITE]):
        return None
    sites = [named] if isinstance(named, str) else named
    if not isinstance(sites, list) or not all(isinstance(site, str) and site for site in sites):
        raise TokenError("the key's sites are not a list of site codes")
    return frozenset(sites)


def _key_id(given: Any) -> UUID:
    try:
        return UUID(given)
    except (ValueError, AttributeError, TypeError):
        raise TokenError("the key's jti is no id of a key") from None


def _instant(payload: Mapping[str, Any], claim: str) -> datetime | None:
    """A NumericDate: seconds since 1970, which may have a fraction."""
    given = payload.get(claim)
    if given is None:
        return None
    try:
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise TokenError(f"the key's {claim} is not a time")
        return datetime.fromtimestamp(given, UTC)
    except (OverflowError, ValueError, OSError):
        raise TokenError(f"the key's {claim} is not a time") from None


class Verifier:
    """Verifies keys, and remembers those that it has; whether one was revoked is the database's to say."""

    def __init__(
        self,
        secrets: Sequence[bytes],
        clock: Callable[[], datetime],
        *,
        public_keys: PublicKeys | None = None,
        issuer: str | None = None,
        audience: str | None = None,
    ) -> None:
        """``issuer`` and ``audience`` are asked of tokens that were signed by ``public_keys``."""
        self._secrets = tuple(secrets)
        self._clock = clock
        self._public_keys = public_keys
        self._issuer = issuer
        self._audience = audience
        self._remembered: OrderedDict[bytes, tuple[int, Identity]] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """Who ``token`` belongs to; TokenError where it is not valid now."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        version = self._public_keys.version if self._public_keys else 0
        found = self._remembered.get(digest)
        if found is None or found[0] != version:
            identity = await self._read(token)
            self._remember(digest, identity)
        else:
            self._remembered.move_to_end(digest)
            identity = found[1]
        if identity.expires_at is not None and identity.expires_at + SKEW <= self._clock():
            self._remembered.pop(digest, None)
            raise TokenError("the key has expired")
        return identity

    def _remember(self, digest: bytes, identity: Identity) -> None:
        version = self._public_keys.version if self._public_keys else 0
        self._remembered[digest] = (version, identity)
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    async def _read(self, token: str) -> Identity:
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the key is too long")
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "HS256":
            payload = self._by_secret(token)
        elif algorithm in ("RS256", "ES256") and self._public_keys is not None:
            payload = _decode(token, await self._public_keys.find(algorithm, kid), algorithm)
            self._check_foreign(payload)
        else:
            raise TokenError("the key is signed in a way that this server does not accept")
        self._check_begun(payload)
        return identity_from(payload)

    def _by_secret(self, token: str) -> dict[str, Any]:
        for secret in self._secrets[:-1]:
            try:
                return _decode(token, secret, "HS256")
            except TokenError:
                continue  # perhaps it is of the secret before the last change
        return _decode(token, self._secrets[-1], "HS256")

    def _check_foreign(self, payload: Mapping[str, Any]) -> None:
        issuer = payload.get("iss")
        if issuer == ISSUER:
            raise TokenError("the key says that Flux issued it, and Flux did not")
        if self._issuer is not None and issuer != self._issuer:
            raise TokenError("the key was issued by somebody else than FLUX_JWT_ISSUER")
        audience = payload.get("aud")
        if self._audience is not None and self._audience not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise TokenError("the key was issued for somebody else than FLUX_JWT_AUDIENCE")

    def _check_begun(self, payload: Mapping[str, Any]) -> None:
        begins = _instant(payload, "nbf")
        if begins is not None and begins - SKEW > self._clock():
            raise TokenError("the key is not valid yet")


def _header(token: str) -> dict[str, Any]:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError):
        raise TokenError("this is not a key: it has to be a JWT") from None
    if "crit" in header or "b64" in header:
        raise TokenError("the key asks for an extension that this server does not have")
    return header


def _decode(token: str, key: bytes | jwt.PyJWK, algorithm: str) -> dict[str, Any]:
    try:
        return jwt.decode(token, key, algorithms=[algorithm], options=_NOT_CHECKED_BY_LIBRARY)  # type: ignore[arg-type]
    except jwt.InvalidSignatureError:
        raise TokenError("the key's signature is wrong: it was made for another installation, or changed") from None
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise TokenError("this is not a key that Flux can read") from None
