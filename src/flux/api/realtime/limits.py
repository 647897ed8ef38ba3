"""What one client may take of the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What is beyond is refused in words; a client that does not read is dropped. (How many sockets there may be is
    said in :mod:`flux.api.limits`.)"""

    channels: int = 100
    """Of a socket."""
    bindings: int = 100
    """Of a channel."""
    bindings_of_socket: int = 500
    """Of all its channels: each is asked of every row that is told."""
    message_bytes: int = 65_536
    """Of what a client sends."""
    joins: int = 100
    """At once; then one more each ``join_every_s``."""
    join_every_s: float = 0.2
    queue_bytes: int = 8 * 2**20
    """Waiting for one socket: a client that lets this much gather does not keep up, and is dropped."""
    idle_s: float = 120
    """Without a word (clients send a heartbeat every 25 s) a socket is closed."""


DEFAULT_LIMITS = Limits()
