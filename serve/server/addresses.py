"""From which address a request came: the connection's, or what proxies that are trusted say of it.

Anyone can send X-Forwarded-For. So it is read from its end, where the nearest proxy added the address that it
saw, and only as far as each next address is that of a trusted proxy; the first one that is not is the client.
"""

import ipaddress
from collections.abc import Sequence

from starlette.requests import Request

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks written as "10.0.0.0/8", or an address. Raises ValueError with what would be right."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ValueError(
                f"proxy {text!r} must be an IP address or a network, like 10.0.0.0/8: {error}"
            ) from error
    return tuple(networks)


class Addresses:
    """Tells where requests came from. `proxies`: networks whose X-Forwarded-For is believed."""

    def __init__(self, proxies: Sequence[str]) -> None:
        self._proxies = parse_networks(proxies)

    def of(self, request: Request) -> str:
        """The client's address; "unknown" where the connection has none."""
        peer = request.client.host if request.client is not None else "unknown"
        if not self._proxies:
            return peer
        return self.client(peer, ",".join(request.headers.getlist("x-forwarded-for")))

    def client(self, peer: str, forwarded: str) -> str:
        """The client behind a connection from `peer`, as its X-Forwarded-For tells."""
        nearest = peer
        for text in reversed([each.strip() for each in forwarded.split(",")]):
            address = _address(text)
            if address is None or not self._is_proxy(nearest):
                break
            nearest = address
        return nearest

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._proxies)


def _address(text: str) -> str | None:
    """An address as proxies write it: 10.0.0.1, 10.0.0.1:4711, 2001:db8::1 or [2001:db8::1]:4711."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
