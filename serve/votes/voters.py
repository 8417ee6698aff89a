"""Who votes: a key's caller for its users, or a browser with the token of the answer that it shows."""

import time
from dataclasses import dataclass
from typing import NamedTuple

from feedback.core.events import Source
from feedback.core.ids import Signer
from serve.auth.caller import OPEN, Caller
from serve.auth.feedback_tokens import Grant, Tokens
from serve.http.errors import Forbidden
from serve.votes.common import SOURCES
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

    @property
    def sources(self) -> frozenset[Source]:
        """The sources that its votes may claim: a browser speaks for its user, imports are for operators."""
        if self.grant is not None:
            return _BROWSERS
        return SOURCES if "operate" in self.caller.scopes else SOURCES - _OPERATORS_ONLY


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
