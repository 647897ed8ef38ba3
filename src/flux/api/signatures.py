"""Signatures of webhooks, as the Standard Webhooks specification has them (https://www.standardwebhooks.com)::

    webhook-id: evt_17
    webhook-timestamp: 1768478400
    webhook-signature: v1,<base64 of HMAC-SHA256 over "evt_17.1768478400.<body>">

Several signatures, by spaces, are of several secrets; one that is right is enough. Pure.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flux.errors import InputError, RefusedError

WINDOW = timedelta(minutes=5)
"""How far a timestamp may be from now, on either side."""
PREFIX = "whsec_"
SHORTEST_BYTES = 24
_LONGEST_ID = 200
_ID = re.compile(r"[\x21-\x7e]+")
_MOST_SIGNATURES = 10


class SignatureError(RefusedError):
    """The message is not of who it says, or not of now; over HTTP this is 401."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What the headers of a message say of it."""

    id: str
    timestamp: str
    signatures: tuple[str, ...]

    @classmethod
    def of(cls, identifier: str | None, timestamp: str | None, signatures: str | None) -> "Signed":
        """SignatureError for headers that are missing or too long."""
        if not identifier or not timestamp or not signatures:
            raise SignatureError("a webhook needs the headers webhook-id, webhook-timestamp and webhook-signature")
        if len(identifier) > _LONGEST_ID or not _ID.fullmatch(identifier):
            raise SignatureError("webhook-id is not a short word")
        return cls(identifier, timestamp, tuple(signatures.split()[:_MOST_SIGNATURES]))

    @property
    def signed_at(self) -> datetime:
        """SignatureError where the timestamp is not whole seconds since 1970."""
        try:
            if not re.fullmatch(r"[0-9]{1,11}", self.timestamp):
                raise SignatureError("webhook-timestamp is not in seconds since 1970")
            return datetime.fromtimestamp(int(self.timestamp), UTC)
        except (ValueError, OverflowError, OSError):
            raise SignatureError("webhook-timestamp is not in seconds since 1970") from None


def parse_secret(text: str, where: str) -> bytes:
    """``whsec_`` and base64, or text as it is. InputError, naming ``where``, for one that is too short."""
    secret = text.strip().encode()
    if text.startswith(PREFIX):
        try:
            secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"{where}: what follows {PREFIX} is not base64") from None
    if len(secret) < SHORTEST_BYTES:
        raise InputError(f"{where}: a secret has at least {SHORTEST_BYTES} bytes")
    return secret


def signature(secret: bytes, identifier: str, timestamp: str, body: bytes) -> str:
    """One signature, as it stands in ``webhook-signature``."""
    signed = b"%s.%s.%s" % (identifier.encode(), timestamp.encode(), body)
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def check(signed: Signed, body: bytes, secrets: Sequence[bytes], now: datetime) -> None:
    """Raise SignatureError unless one of ``secrets`` signed this message within :data:`WINDOW` of ``now``.

    Every pair is compared, each in constant time: how long it takes tells nothing.
    """
    right = False
    for secret in secrets:
        expected = signature(secret, signed.id, signed.timestamp, body).encode()
        for given in signed.signatures:
            right |= hmac.compare_digest(expected, given.encode("utf-8", "surrogatepass"))
    if not right:
        raise SignatureError("the signature is wrong, or there is no such source")
    if abs(now - signed.signed_at) > WINDOW:
        raise SignatureError(f"webhook-timestamp is more than {WINDOW.seconds // 60} minutes from now: is a clock off?")
