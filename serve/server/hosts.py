"""Which names the service is reached by: a request for any other is a 421, before anything looks at it.

A web page can point a name of its own at this machine after it was loaded (DNS rebinding); its requests then
are of the page's own origin, and the browser lets it read and write all. It cannot do so with a name that
nobody can register: IP addresses, names without a dot, and those that are set aside for private use. All
others have to be listed.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.dialects import error_at
from serve.http.errors import Misdirected

# RFC 6761, RFC 6762, RFC 8375, and ICANN's resolution 2024.07.29.06.
_PRIVATE = (".localhost", ".local", ".home.arpa", ".internal")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(?::[0-9]*)?", re.IGNORECASE)


def is_host_pattern(text: str) -> bool:
    """Whether this is a name to trust: chat.example.com, *.example.com, or * for all."""
    return text == "*" or _NAME.fullmatch(text.lower()) is not None


def is_trusted(host: str, patterns: Sequence[str]) -> bool:
    """Whether a Host header (with or without a port) names this service."""
    if "*" in patterns:
        return True
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().removesuffix(".")
    if _is_address(name.strip("[]")):
        return True
    if _NAME.fullmatch(name) is None or name.startswith("*"):
        return False
    return "." not in name or name.endswith(_PRIVATE) or any(_fits(name, each.lower()) for each in patterns)


def _fits(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class TrustedHosts:
    """ASGI middleware. A request without a Host is let through: browsers always send one."""

    def __init__(self, app: ASGIApp, patterns: Sequence[str]) -> None:
        self._app = app
        self._is_trusted = lru_cache(1024)(lambda host: is_trusted(host, patterns))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"host" and not self._is_trusted(value.decode("latin-1")):
                    refusal = _foreign(value.decode("latin-1"))
                    await error_at(scope["path"], refusal)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _foreign(host: str) -> Misdirected:
    shown = repr(host.partition(":")[0][:100])
    return Misdirected(
        f"This service is not known by the name {shown}. If it is to be reached by it, list the name in "
        "trusted_hosts under [gateway], or start with --trusted-host NAME.",
        code="untrusted_host",
    )
