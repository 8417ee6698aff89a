"""Who may look at releases and steer them, and what the record calls them."""

import ipaddress

from starlette.datastructures import Headers
from starlette.requests import Request

from serve.auth.caller import Caller
from serve.auth.cors import is_of_another_page
from serve.auth.entrance import Entrance
from serve.http.errors import Forbidden
from serve.server.addresses import Addresses


class Operators:
    """Lets operators in."""

    def __init__(self, entrance: Entrance, addresses: Addresses) -> None:
        self._entrance = entrance
        self._addresses = addresses

    async def enter(self, request: Request) -> tuple[Caller, str]:
        """Who looks or steers, and their name for the record. Raises ApiError."""
        caller = await self._entrance.enter(request, "operate")
        return caller, operator_of(caller, self._addresses.of(request), request.headers)

    def look_again(self, request: Request) -> None:
        """Raises ApiError when what let a request in counts no more. It is not counted as one more."""
        operator_of(self._entrance.known(request, "operate"), self._addresses.of(request), request.headers)


def operator_of(caller: Caller, address: str, headers: Headers) -> str:
    """Who looks at releases or steers them, for the record: the name of the key.

    An open service has no keys, and its callers are its voters, who must not see what is on trial. So it
    takes nothing but what comes from its own machine, and not from another's page in a browser there. Raises
    Forbidden.
    """
    if caller.key_id:
        return f"{caller.key_name} (key {caller.key_id})"
    if not _is_loopback(address):
        raise Forbidden(
            "A service without keys shows releases, and is steered, on its own machine only. Make a key: "
            "hearken keys create --scope operate.",
            code="key_needed",
        )
    if is_of_another_page(headers, ()):
        raise Forbidden(
            "A page of another origin cannot see or steer releases without a key.", code="cross_site"
        )
    return f"{address}, without a key"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
