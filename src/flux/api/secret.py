"""The secret that signs this installation's keys: FLUX_JWT_SECRET, or a file that is made at the first start.

Who has it can make a key for anything, so it never leaves the machine: it stands in no log, no error, no database.
"""

import secrets as random
from pathlib import Path

from flux.config import Settings
from flux.config.private import create_private, read_private
from flux.errors import InputError, NotFoundError

SHORTEST_BYTES = 32
"""As many as HMAC-SHA256 gives out; a shorter one could be guessed from one key."""
_COMMENT = "# signs the keys of this installation: the first line signs, the others still verify\n"


def secret_file(settings: Settings) -> Path:
    """Where the secret is kept unless FLUX_JWT_SECRET is set."""
    return settings.home / "api" / "jwt-secret"


def load_secrets(settings: Settings, *, create: bool = False) -> tuple[bytes, ...]:
    """The secrets that verify keys; the first signs new ones.

    ``create``: make the file where neither is there. NotFoundError: there is none. InputError: one is too short, or
    others can read the file.
    """
    if settings.jwt_secret is not None:
        return (_checked(settings.jwt_secret.get_secret_value(), "FLUX_JWT_SECRET"),)
    file = secret_file(settings)
    if create and not file.exists():
        create_private(file, f"{_COMMENT}{random.token_urlsafe(48)}\n")
    try:
        lines = [line.strip() for line in read_private(file).splitlines()]
    except FileNotFoundError:
        raise NotFoundError(f"no key has been made yet: {file} is not there; `flux serve` makes it") from None
    found = tuple(_checked(line, str(file)) for line in lines if line and not line.startswith("#"))
    if not found:
        raise InputError(f"{file}: no secret in it; remove the file, and `flux serve` makes one")
    return found


def _checked(secret: str, where: str) -> bytes:
    encoded = secret.encode()
    if len(encoded) < SHORTEST_BYTES:
        raise InputError(f"{where}: a secret has at least {SHORTEST_BYTES} bytes, like that of `openssl rand -hex 32`")
    return encoded
