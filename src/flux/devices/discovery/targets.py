"""Which addresses a scan may ask: private and loopback ones, not too many at once, unless it is forced."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from flux.errors import InputError, RefusedError

_MOST_HOSTS = 4096
_ALLOWED = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "fc00::/7",
        "::1/128",
    )
)
_LAST_UNIT = 255


def targets(ranges: Sequence[str], *, force: bool = False) -> list[str]:
    """The hosts of networks (192.168.1.0/24) and single addresses, each once, in order.

    InputError for what is neither; RefusedError for more than 4,096 hosts, or addresses that are not private, loopback
    or link-local, unless ``force``.
    """
    networks = [_network(text) for text in ranges]
    if not networks:
        raise InputError("name at least one network or address, like 192.168.1.0/24")
    for network in networks:
        if not force and not any(_inside(network, allowed) for allowed in _ALLOWED):
            raise RefusedError(f"{network} is not a private or loopback range; --force scans it, if you may")
    count = sum(network.num_addresses for network in networks)
    if count > _MOST_HOSTS and not force:
        raise RefusedError(f"{count:,} addresses are more than {_MOST_HOSTS:,}: name less, or --force")
    return list(dict.fromkeys(str(host) for network in networks for host in network.hosts()))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        problem = str(error)
    try:
        meant = ip_network(text.strip(), strict=False)
    except ValueError:
        raise InputError(f"{text!r}: not a network or address ({problem}); write it like 192.168.1.0/24") from None
    raise InputError(f"{text!r}: the network is {meant}; write that, or one address without the /")


def _inside(network: IPv4Network | IPv6Network, allowed: IPv4Network | IPv6Network) -> bool:
    first, last = network.network_address, network.broadcast_address
    return network.version == allowed.version and first in allowed and last in allowed


def parse_units(text: str) -> list[int]:
    """``1-3,7`` → [1, 2, 3, 7]; InputError for what is no unit of Modbus (0 to 255)."""
    units: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            raise InputError(f"--units {text!r}: write it like 1, 1-9 or 1,2,10-12") from None
        if not 0 <= low <= high <= _LAST_UNIT:
            raise InputError(f"--units {text!r}: units go from 0 to {_LAST_UNIT}, the lower first")
        units |= dict.fromkeys(range(low, high + 1))
    return list(units)
