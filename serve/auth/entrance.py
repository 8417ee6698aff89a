"""The way in: who sent a request, and whether they and their user keep to their limits."""

from starlette.requests import Request

from feedback.core.ids import Signer
from serve.auth.access import Access
from serve.auth.caller import Caller, Scope
from serve.auth.limits import NO_LIMITS
from serve.auth.metering import Metering
from serve.server.addresses import Addresses
from serve.server.observing import visit_of


class Entrance:
    """Lets requests in that are work. `access` tells who sent one, `metering` counts it."""

    def __init__(self, access: Access, addresses: Addresses, metering: Metering, signer: Signer) -> None:
        self._access = access
        self._addresses = addresses
        self._metering = metering
        self._signer = signer

    async def enter(self, request: Request, scope: Scope) -> Caller:
        """Who sent a request: the key has the scope (401, 403) and keeps to its limits (429)."""
        caller = self._access.caller(request, scope)
        if caller.limits is not NO_LIMITS:
            await self._metering.admit(caller, scope, visit_of(request.scope))
        return caller

    def known(self, request: Request, scope: Scope) -> Caller:
        """Who sent a request, without counting it: the key has the scope (401, 403)."""
        return self._access.caller(request, scope)

    def pseudonym(self, request: Request, caller: Caller, name: str | None) -> str:
        """The name under which a user is logged; users without a name are told apart by their address."""
        return self._signer.pseudonym(caller.tenant, name or f"anonymous-{self._addresses.of(request)}")

    async def user(self, request: Request, caller: Caller, name: str | None) -> str:
        """The pseudonym of a request's end user, who is within their limit (429).

        Where keys tell callers apart, a user without a name is not limited as a user: behind one address may
        be a whole product.
        """
        user = self.pseudonym(request, caller, name)
        if caller.limits is not NO_LIMITS:
            await self._metering.admit_user(caller, user if name or not caller.key_id else None)
        return user
