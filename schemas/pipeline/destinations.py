"""Where a hook may go: which names, and which addresses behind them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from schemas.pipeline.spec import Destinations

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Public by its number, and yet of the machine's own cloud (Azure's metadata and agents).
_OF_THE_CLOUD = ipaddress.ip_address("168.63.129.16")
#: Addresses of version 6 that stand for one of version 4 in their last 32 bits (RFC 6052).
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def refuse_url(destinations: Destinations, url: str) -> str:  # noqa: PLR0911  # one return per reason
    """Why a hook may not go to ``url``, as the rest of a sentence with the fix; "" when it may.

    The sentence does not repeat the URL: it may hold a secret. That of Slack's incoming webhooks does.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL; write for example https://crm.example.com/hook"
    if parts.scheme not in {"https", "http"} or not host or any(not char.isprintable() or char == " " for char in url):
        return "is no URL; write for example https://crm.example.com/hook"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "has a user, a password or a fragment, which a hook does not send; leave it out"
    if parts.scheme == "http" and not destinations.plain_http:
        return "is not encrypted; use https, or allow it by plain_http = true in [destinations]"
    if not _is_listed(destinations, host):
        return f'goes to a host that is not allowed; add "{host}" to hosts in [destinations]'
    if (address := read_address(host)) is not None:
        return refuse_address(destinations, address)
    return ""


def refuse_address(destinations: Destinations, address: Address) -> str:
    """Why nothing may connect to ``address``, as the rest of a sentence with the fix; "" when it may."""
    bare = _unwrap(address)
    listed = [ipaddress.ip_network(network) for network in destinations.networks]
    if any(bare in network for network in listed if network.version == bare.version):
        return ""
    if bare.is_global and not bare.is_multicast and not bare.is_reserved and bare != _OF_THE_CLOUD:
        return ""
    return f'goes to {bare}, which is no public address; if that is wanted, add "{bare}" to networks in [destinations]'


def read_address(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_listed(destinations: Destinations, host: str) -> bool:
    bare = host.lower().rstrip(".")
    return any(
        bare == name or (name.startswith("*.") and bare.endswith(name[1:]) and bare != name[2:])
        for name in destinations.hosts
    )


def _unwrap(address: Address) -> Address:
    """The address of version 4 that one of version 6 only carries: mapped, translated, 6to4 or Teredo."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None) or address
