"""How much one caller may ask: requests by role, open sockets, and who counts as one caller.

A caller is a key, or a user of another issuer of tokens; without a key, and for the role anon, it is an address (of
IPv6 a /64, which is what one subscriber has). Behind a proxy the address is what the proxy says, see
:mod:`flux.api.serving`.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Scope

from flux.api.buckets import Buckets, Rate, Standing
from flux.api.identity import Identity, Role, key_of
from flux.config import Settings
from flux.errors import InputError, UnavailableError

Headers = list[tuple[bytes, bytes]]
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed; a rate of None: no limit."""

    rates: Mapping[Role, Rate | None]
    body_bytes: int
    sockets: int
    sockets_per_caller: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "Limits":
        """InputError, naming the variable, for one that is none."""
        rates = {}
        for role in Role:
            try:
                rates[role] = Rate.parse(getattr(settings, f"rate_{role.value}"))
            except InputError as error:
                raise InputError(f"FLUX_RATE_{role.name}: {error}") from None
        body_bytes = int(settings.max_body_mb * _MEGABYTE)
        return cls(rates, body_bytes, settings.max_sockets, settings.max_sockets_per_key)


class TooManySocketsError(UnavailableError):
    """No other socket may be opened now."""


class Limiter:
    """Counts requests and open sockets; ``monotonic`` in seconds."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        # apart: whoever has many addresses can't make the server forget what a key has used
        self._keys = Buckets()
        self._addresses = Buckets()
        self._sockets: Counter[Hashable] = Counter()

    def take(self, scope: Scope, identity: Identity | None) -> Standing | None:
        """One request; None: there is no limit. ``identity`` None: nobody with a valid key."""
        role = identity.role if identity is not None else Role.ANON
        rate = self._limits.rates[role]
        if rate is None:
            return None
        buckets = self._addresses if role is Role.ANON else self._keys
        return buckets.take(caller_of(scope, identity), rate, self._monotonic())

    @contextmanager
    def socket(self, scope: Scope, identity: Identity | None) -> Iterator[None]:
        """Counts an open socket for as long as the block; TooManySocketsError where there are enough."""
        caller = caller_of(scope, identity)
        if self._sockets.total() >= self._limits.sockets:
            raise TooManySocketsError("this server has no room for another socket; try again later")
        if self._sockets[caller] >= self._limits.sockets_per_caller:
            raise TooManySocketsError(f"this key has {self._sockets[caller]} sockets open; close one first")
        self._sockets[caller] += 1
        try:
            yield
        finally:
            self._sockets[caller] -= 1
            if not self._sockets[caller]:
                del self._sockets[caller]


def caller_of(scope: Scope, identity: Identity | None) -> Hashable:
    """Whom to count a request for."""
    if identity is None or identity.role is Role.ANON:
        return address_of(scope)
    return key_of(identity)


def address_of(scope: Scope) -> str:
    """The address that a request came from, as far as it is one subscriber's."""
    host = (scope.get("client") or ("local",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


def headers_of(standing: Standing) -> Headers:
    """What every answer tells of the limit: its burst, what is left of it, and in how many seconds it is whole."""
    headers = [
        (b"x-ratelimit-limit", b"%d" % standing.limit),
        (b"x-ratelimit-remaining", b"%d" % standing.remaining),
        (b"x-ratelimit-reset", b"%d" % standing.full_in_s),
    ]
    if not standing.allowed:
        headers.append((b"retry-after", b"%d" % standing.retry_in_s))
    return headers
