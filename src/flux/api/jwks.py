"""Public keys of another issuer of tokens, as a JWKS from its URL or a file.

Keys are kept for ten minutes and looked at again while the old ones still hold, so that no request waits for that. A
token with an unknown ``kid`` asks at once, at most once a minute whatever callers send. An issuer that is away changes
nothing: the keys from before stay.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from flux.api.secret import load_secrets
from flux.api.tokens import PublicKeys, TokenError, Verifier
from flux.config import Settings
from flux.errors import InputError, UnavailableError

KEPT_S = 600.0
ASK_EVERY_S = 60.0
_WITHIN_S = 5.0
_LONGEST_BYTES = 256 * 1024
_SHORTEST_RSA_BITS = 2048
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
_logger = structlog.get_logger(__name__)

Keys = dict[str | None, jwt.PyJWK]
Load = Callable[[], Awaitable[bytes]]
"""The text of the set; UnavailableError where it can't be had."""


class JwksKeys:
    """Public keys that are fetched when they are needed; ``monotonic`` in seconds."""

    def __init__(self, load: Load, monotonic: Callable[[], float]) -> None:
        self.version = 0
        self._load = load
        self._monotonic = monotonic
        self._keys: Keys = {}
        self._loaded_at = self._asked_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK:
        """The key for ``algorithm``; a token without ``kid`` gets the only one there is. TokenError: there is none."""
        found = self._held(algorithm, kid)
        now = self._monotonic()
        if (found is None or now - self._loaded_at >= KEPT_S) and now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            self._loading = asyncio.create_task(self._reload(), name="public keys")
        if found is None and self._loading is not None:
            await asyncio.shield(self._loading)  # one caller that goes away does not end it for the others
            found = self._held(algorithm, kid)
        if found is None:
            raise TokenError("the key was signed by nobody that this server knows")
        return found

    def _held(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        if kid is not None:
            found = self._keys.get(kid)
            return found if found is not None and found.algorithm_name == algorithm else None
        fitting = [one for one in self._keys.values() if one.algorithm_name == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    async def _reload(self) -> None:
        try:
            keys = parse_jwks(await self._load())
        except (UnavailableError, InputError) as error:
            _logger.warning("the public keys of tokens could not be read; those from before stay", error=str(error))
            return
        self._loaded_at = self._monotonic()
        if {kid: one.key for kid, one in keys.items()} != {kid: one.key for kid, one in self._keys.items()}:
            self._keys = keys
            self.version += 1


def parse_jwks(text: bytes) -> Keys:
    """The keys that may verify tokens: RSA of at least 2048 bits and P-256, for signatures; others are left out.

    InputError for what is no JWKS. A symmetric key has no business in one, and is never used.
    """
    try:
        entries = json.loads(text)["keys"]
        return {kid: key for kid, key in (_parse(entry) for entry in entries) if key is not None}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is no JWKS: an object with a list of keys") from None


def _parse(entry: Mapping[str, Any]) -> tuple[str | None, jwt.PyJWK | None]:
    kid, algorithm = entry.get("kid"), _ALGORITHMS.get(entry["kty"])
    fits = entry.get("use", "sig") == "sig" and entry.get("alg", algorithm) == algorithm
    if algorithm is None or not fits:
        return kid, None
    try:
        key = jwt.PyJWK({**entry, "alg": algorithm})
    except jwt.PyJWTError:
        return kid, None
    strong = (isinstance(key.key, RSAPublicKey) and key.key.key_size >= _SHORTEST_RSA_BITS) or (
        isinstance(key.key, EllipticCurvePublicKey) and isinstance(key.key.curve, SECP256R1)
    )
    return kid, key if strong else None


def public_keys(settings: Settings, monotonic: Callable[[], float]) -> PublicKeys | None:
    """As FLUX_JWKS_URL or FLUX_JWKS_FILE say; None where neither does. InputError: both, or a URL that is not safe."""
    if settings.jwks_url is not None and settings.jwks_file is not None:
        raise InputError("set FLUX_JWKS_URL or FLUX_JWKS_FILE, not both")
    if settings.jwks_file is not None:
        return JwksKeys(_from_file(settings.jwks_file), monotonic)
    if settings.jwks_url is not None:
        return JwksKeys(_from_url(settings.jwks_url), monotonic)
    return None


def verifier_of(settings: Settings, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> Verifier:
    """What this installation accepts: keys of its own secret, which is made where there is none, and of an issuer."""
    keys = public_keys(settings, monotonic)
    secrets = load_secrets(settings, create=True)
    return Verifier(secrets, clock, public_keys=keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _from_file(file: Path) -> Load:
    async def load() -> bytes:
        try:
            return await asyncio.to_thread(file.read_bytes)
        except OSError as error:
            raise UnavailableError(f"{file}: {error.strerror}") from None

    return load


def _from_url(url: str) -> Load:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise InputError("FLUX_JWKS_URL must begin with https:// (http:// on this machine alone)")

    async def load() -> bytes:
        text = b""
        try:
            async with (
                asyncio.timeout(_WITHIN_S),
                httpx.AsyncClient(timeout=_WITHIN_S, trust_env=False) as client,
                client.stream("GET", url) as answer,
            ):
                answer.raise_for_status()
                async for piece in answer.aiter_bytes():
                    text += piece
                    if len(text) > _LONGEST_BYTES:
                        raise UnavailableError("FLUX_JWKS_URL: the answer is too long")
        except (httpx.HTTPError, TimeoutError) as error:
            raise UnavailableError(f"FLUX_JWKS_URL: {type(error).__name__}") from None
        return text

    return load
