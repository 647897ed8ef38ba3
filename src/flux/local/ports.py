"""Whether an address may be listened on and its port can be had, asked before anything is started."""

import ipaddress
import socket
import ssl

from flux.config import Settings
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


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe(settings: Settings) -> None:
    """Raise :class:`InputError` where keys would go over a network that others can listen on."""
    host = settings.http_host
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InputError("--tls-cert and --tls-key (FLUX_TLS_CERT, FLUX_TLS_KEY) go together")
    if not is_loopback(host) and settings.tls_cert is None and not settings.behind_proxy:
        raise InputError(
            f"{host} can be reached by others, and keys would go to it in the clear: give --tls-cert and --tls-key,"
            " or --behind-proxy where a proxy in front does TLS, or stay on 127.0.0.1 (--host, FLUX_HTTP_HOST)"
        )
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ssl.SSLError) as error:
            told = getattr(error, "reason", None) or error.strerror or "it cannot be read"
            raise InputError(
                f"{settings.tls_cert} and {settings.tls_key}: no certificate with its key ({told})"
            ) from None


def url_of(settings: Settings) -> str:
    """Where this machine itself reaches the server."""
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - told apart, not listened on
    host = every.get(settings.http_host, settings.http_host)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.http_port}"
