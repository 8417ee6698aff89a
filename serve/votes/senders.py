"""The way in for votes: by a key, by a feedback token, or as anybody where the service is open."""

import time
from collections.abc import Sequence

from starlette.requests import Request

from serve.auth.access import Access
from serve.auth.cors import is_of_another_page
from serve.auth.entrance import Entrance
from serve.auth.feedback_tokens import BROWSER, Tokens, presented
from serve.auth.metering import Metering
from serve.http.errors import Forbidden
from serve.server.addresses import Addresses
from serve.votes.voters import Sender


class Senders:
    """Tells who sends votes, and counts these against the sender's quota.

    cors_origins: the origins whose pages may call the API. token_votes_per_minute: what one token may send,
    0: no limit.
    """

    def __init__(
        self,
        access: Access,
        entrance: Entrance,
        addresses: Addresses,
        metering: Metering,
        tokens: Tokens,
        cors_origins: Sequence[str],
        token_votes_per_minute: int,
    ) -> None:
        self._access = access
        self._entrance = entrance
        self._addresses = addresses
        self._metering = metering
        self._tokens = tokens
        self._cors_origins = cors_origins
        self._token_votes_per_minute = token_votes_per_minute

    async def known(self, request: Request, since: int = 0) -> Sender | None:
        """Who votes: by a feedback token, or by what access says. Raises Unauthorized, Forbidden, 429.

        since: the instant at which the request began, as erasures count time.
        None: a request that shows neither key nor token, where one is needed. An open service knows nobody,
        but a page of another origin is not to vote in the name of whoever looks at it.
        """
        token = presented(request.headers)
        if token is not None:
            return await self.granted(request, token, since)
        if self._access.is_open:
            if is_of_another_page(request.headers, self._cors_origins):
                return None
        elif not {"authorization", "x-api-key"}.intersection(request.headers):
            return None
        caller = await self._entrance.enter(request, "feedback")
        return Sender(self._addresses.of(request), caller, since=since)

    async def granted(self, request: Request, token: str | None, since: int = 0) -> Sender:
        """The sender who has a token. Raises Unauthorized when there is none of ours, or 429."""
        if token is None:
            self._access.caller(request, "feedback")  # which refuses, but in an open service
            raise Forbidden(
                "A web page of another origin can vote with the answer's feedback token only, or when its "
                "origin is allowed: --cors-origin.",
                code="cross_site",
            )
        grant = self._tokens.check(token, time.time())
        await self._metering.admit_user(BROWSER, grant.rater)
        return Sender(self._addresses.of(request), grant=grant, since=since)

    async def take_votes(self, sender: Sender, votes: int) -> None:
        """Count votes, before they are checked, for the key or token they come with. Raises 429, 413."""
        if sender.grant is None:
            limit = sender.caller.limits.votes_per_minute or 0
            await self._metering.admit_votes(f"key/{sender.caller.key_id}", limit, votes)
        else:
            whose = f"token/{min(sender.grant.completion_ids)}"
            await self._metering.admit_votes(whose, self._token_votes_per_minute, votes)
