"""Who votes: who sent a request with votes, and in whose name each vote is.

By a key a caller votes for its users, by the token of an answer a browser, and where the service is open
anybody.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from feedback.core.events import Source
from feedback.core.ids import Signer
from serve.auth.access import Access
from serve.auth.caller import OPEN, Caller
from serve.auth.cors import is_of_another_page
from serve.auth.entrance import Entrance
from serve.auth.feedback_tokens import BROWSER, Grant, Tokens, presented
from serve.auth.metering import Metering
from serve.http.errors import Forbidden
from serve.server.addresses import Addresses
from serve.votes.common import SOURCES, Rules
from serve.votes.vote import Vote

_OPERATORS_ONLY: frozenset[Source] = frozenset({"import"})
_BROWSERS: frozenset[Source] = frozenset({"end_user"})


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a request came from: a `caller` (by its key, or of an open service) or a token's `grant`."""

    address: str
    caller: Caller = OPEN
    grant: Grant | None = None
    since: int = 0  # the instant at which the request began, as erasures count time

    @property
    def scope(self) -> str:
        """Whose idempotency keys these are."""
        if self.grant is not None:
            return f"{self.grant.tenant}/{self.grant.rater}"
        return self.caller.tenant

    def rules(self, reasons: frozenset[str]) -> Rules:
        """What its votes are checked against now. reasons: those that the service knows.

        Sources: a browser speaks for its user, and imports are for operators.
        """
        if self.grant is not None:
            sources = _BROWSERS
        else:
            sources = SOURCES if "operate" in self.caller.scopes else SOURCES - _OPERATORS_ONLY
        return Rules(time.time(), reasons, sources)


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
            whose, limit = f"key/{sender.caller.key_id}", sender.caller.limits.votes_per_minute
        else:
            whose, limit = f"token/{min(sender.grant.completion_ids)}", self._token_votes_per_minute
        if limit:
            await self._metering.admit_votes(whose, limit, votes)


class Voter(NamedTuple):
    """In whose name a vote is. key_id: of the key that it comes by; `since`: the instant from which on an
    erasure makes its words blank."""

    tenant: str
    rater: str
    key_id: str
    since: int


class Voters:
    """Tells in whose name a vote is."""

    def __init__(self, signer: Signer, tokens: Tokens) -> None:
        self._signer = signer
        self._tokens = tokens

    def voter(self, vote: Vote, sender: Sender) -> Voter:
        """Whose vote it is.

        Raises Unauthorized for a token that is not good, Forbidden for one that is good for something else.
        """
        grant = sender.grant
        if vote.token is not None:
            grant = self._tokens.check(vote.token, time.time())
        if grant is None:
            tenant = sender.caller.tenant
            rater = self._signer.pseudonym(tenant, vote.user or f"anonymous-{sender.address}")
            return Voter(tenant, rater, sender.caller.key_id, sender.since)
        self._check(vote, grant)
        return Voter(grant.tenant, grant.rater, grant.key_id, min(grant.since, sender.since))

    def _check(self, vote: Vote, grant: Grant) -> None:
        """Whether a token allows a vote."""
        for target in vote.event["targets"]:
            if target["completion_id"] not in grant.completion_ids:
                raise Forbidden(
                    "The feedback token is for another answer; send the one that came with this answer.",
                    param="token",
                    code="token_of_another_completion",
                )
        if vote.user is not None and self._signer.pseudonym(grant.tenant, vote.user) != grant.rater:
            raise Forbidden(
                "The feedback token was made for another user; leave user out.",
                param="user",
                code="token_of_another_user",
            )
        if vote.event["source"] not in _BROWSERS:
            raise Forbidden(
                "With a feedback token, source can only be 'end_user'.",
                param="source",
                code="source_not_allowed",
            )
