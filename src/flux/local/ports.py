"""Whether an address may be listened on and its port can be had, asked before anything is started."""

import ipaddress
import socket

from flux.errors import InputError


def require_free(host: str, port: int, purpose: str, how_to_change: str) -> None:
    """Raise :class:`InputError` when ``port`` can't be listened on; 0 means any, and is always free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"port {port} on {host} ({purpose}): {error.strerror}; {how_to_change}") from None


def require_loopback(host: str, field: str) -> None:
    """Raise :class:`InputError`, naming ``field``, for an address that others than this machine can reach."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise InputError(
            f"{field} {host} is not a loopback address: this server has no keys yet, so it stays on 127.0.0.1"
        )
