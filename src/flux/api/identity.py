"""Who calls: what a verified key says, as every part of the API sees it."""

from collections.abc import Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Role(StrEnum):
    """The roles of API callers; the database has a role ``flux_<role>`` for each, which holds the rights."""

    ANON = "anon"
    """No key: health and docs only."""
    AUTHENTICATED = "authenticated"
    """Reads what its sites allow."""
    OPERATOR = "operator"
    """Reads, and operates devices: lifecycle, maintenance, set-points, stops."""
    EDGE = "edge"
    """A site's runtime: inserts that site's readings, follows its registry, takes its jobs."""
    SERVICE = "service"
    """Everything, still within its sites where it names any."""

    @property
    def database_role(self) -> str:
        """The name of the PostgreSQL role that a request of this role runs as."""
        return f"flux_{self.value}"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. ``sites`` None: every site; otherwise only these. ``key_id`` None: a token that Flux did not issue."""

    role: Role
    sites: frozenset[str] | None = None
    key_id: UUID | None = None
    name: str = "anonymous"
    expires_at: datetime | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    """The verified payload of the token, as the database sees it in ``request.jwt.claims``."""


ANONYMOUS = Identity(Role.ANON, frozenset(), claims={"role": "anon"})
_STATE_KEY = "flux_identity"


def key_of(identity: Identity) -> Hashable:
    """Who counts as one caller: a key, or a user of another issuer of tokens."""
    if identity.key_id is not None:
        return identity.key_id
    claims = identity.claims
    return (identity.role, str(claims.get("iss")), str(claims.get("sub", identity.name)))


def identity_of(scope: Mapping[str, Any]) -> Identity:
    """The caller of an ASGI request; anonymous where no key was given."""
    found: Identity = scope.get("state", {}).get(_STATE_KEY, ANONYMOUS)
    return found


def set_identity(scope: MutableMapping[str, Any], identity: Identity) -> None:
    """Note the caller of an ASGI request, for everything behind the check of keys."""
    scope.setdefault("state", {})[_STATE_KEY] = identity
