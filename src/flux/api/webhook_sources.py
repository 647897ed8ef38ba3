"""Who may send webhooks: a file of mode 0600 in FLUX_HOME/api that `flux webhooks` writes.

::

    sources:
      axle:
        sites: [WLCE]                # what it may dispatch
        secrets: [whsec_…]           # each of them is accepted: two while one is changed for the other
        secrets_env: [AXLE_WEBHOOK]  # the same from environment variables

An HMAC is checked with the secret itself, not with a hash of it, so the secrets are not in the database: a backup or a
query must not give away who can command a battery.
"""

import base64
import os
import re
import secrets as random
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flux.api.signatures import PREFIX, parse_secret
from flux.config import Settings, YamlDocument
from flux.config.private import create_private, read_private
from flux.errors import ConflictError, InputError, NotFoundError

_SOURCE = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_HEAD = "# Who may send webhooks, and their secrets: mode 0600. Written by `flux webhooks`; edit it as you like.\n"


class Source(BaseModel):
    """One platform that sends webhooks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: tuple[str, ...] = Field(min_length=1)
    secrets: tuple[str, ...] = Field(default=(), repr=False)
    secrets_env: tuple[str, ...] = ()


class SourceFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: dict[str, Source] = Field(default_factory=dict)


def sources_file(settings: Settings) -> Path:
    """Where it is: FLUX_WEBHOOKS_FILE, or in FLUX_HOME/api."""
    return settings.webhooks_file or settings.home / "api" / "webhooks.yaml"


def load_sources(file: Path) -> dict[str, Source]:
    """All sources; none where there is no file. InputError: others may read it, or it is wrong."""
    try:
        text = read_private(file)
    except FileNotFoundError:
        return {}
    try:
        return YamlDocument(text, str(file)).parse(SourceFile).sources
    except InputError as error:  # it repeats what it found, which may be a secret in the wrong place
        raise InputError(
            f"{file}: not as `flux webhooks` writes it ({str(error).count(chr(10)) + 1} mistakes)"
        ) from None


class Sources:
    """The file as it is now; read again when it has changed, so that a new secret needs no restart."""

    def __init__(self, file: Path, environment: Mapping[str, str] | None = None) -> None:
        self._file = file
        self._environment = os.environ if environment is None else environment
        self._seen: tuple[int, int, int] | None = None
        self._sources: dict[str, Source] = {}

    def get(self, name: str) -> tuple[Sequence[str], Sequence[bytes]]:
        """Sites and secrets of a source; of one that is not known: nothing."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen != self._seen:
            self._sources = load_sources(self._file)
            self._seen = seen
        source = self._sources.get(name)
        return ((), ()) if source is None else (source.sites, self._secrets(name, source))

    def _secrets(self, name: str, source: Source) -> list[bytes]:
        given = [(f"webhooks: {name}", secret) for secret in source.secrets]
        given += [(variable, self._environment.get(variable, "")) for variable in source.secrets_env]
        return [parse_secret(secret, where) for where, secret in given]


def add_source(file: Path, name: str, sites: Sequence[str]) -> str:
    """A new source; returns its secret. ConflictError: it is there already; InputError: the name is none."""
    if not re.fullmatch(_SOURCE, name):
        raise InputError(f"{name!r} cannot be a source: small letters, digits, - and _")
    sources = load_sources(file)
    if name in sources:
        raise ConflictError(f"source {name} is there already; `flux webhooks rotate {name}` gives it another secret")
    secret = _new_secret()
    _write(file, {**sources, name: Source(sites=tuple(sites), secrets=(secret,))})
    return secret


def add_secret(file: Path, name: str) -> str:
    """Another secret for a source, accepted beside those it has; returns it."""
    sources, source = _known(file, name)
    secret = _new_secret()
    _write(file, {**sources, name: source.model_copy(update={"secrets": (secret, *source.secrets)})})
    return secret


def keep_newest_secret(file: Path, name: str) -> int:
    """Accept the newest secret of a source alone; how many others there were."""
    sources, source = _known(file, name)
    _write(file, {**sources, name: source.model_copy(update={"secrets": source.secrets[:1]})})
    return max(0, len(source.secrets) - 1)


def remove_source(file: Path, name: str) -> None:
    """Refuse a source from now on."""
    sources, _ = _known(file, name)
    _write(file, {known: source for known, source in sources.items() if known != name})


def _known(file: Path, name: str) -> tuple[dict[str, Source], Source]:
    sources = load_sources(file)
    if name not in sources:
        raise NotFoundError(f"there is no source {name!r}; there is {', '.join(sources) or 'none yet'}")
    return sources, sources[name]


def _new_secret() -> str:
    return PREFIX + base64.b64encode(random.token_bytes(32)).decode()


def _write(file: Path, sources: Mapping[str, Source]) -> None:
    """Whole or not at all, in a file that was never readable by others."""
    lines = [_HEAD, "sources:" if sources else "sources: {}"]
    for name, source in sources.items():
        lines.append(f"  {name}:")
        lines += [f"    {field}: [{', '.join(values)}]" for field, values in source.model_dump().items() if values]
    draft = file.with_name(f".{file.name}.{random.token_hex(4)}")
    create_private(draft, "\n".join(lines) + "\n")
    draft.replace(file)
