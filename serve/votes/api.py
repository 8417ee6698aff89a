"""POST /v1/feedback: check votes, make them events, answer when they are durable."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from feedback.core.ids import Signer, vote_id
from feedback.core.log import LogUnavailable
from feedback.privacy.vault_keys import VaultUnavailable
from serve.http.bodies import parse_object
from serve.http.errors import ApiError, BadRequest, NotFound, Unavailable
from serve.http.idempotency import Claim, Idempotency, Reply, check_header
from serve.preferences.api import Preferences
from serve.receipts.reader import Receipts
from serve.storage.privacy import Privacy
from serve.storage.recording import Recorder
from serve.votes import bodies
from serve.votes.bodies import as_json, read_vote, thumb_of
from serve.votes.common import Rules
from serve.votes.from_now_on import Wish, refuse_in_batch, wish_of
from serve.votes.vote import Vote
from serve.votes.voters import Sender, Voters

Json = dict[str, Any]

SLICE = 100
"""Votes checked in one go (about 1 ms): between slices the event loop serves the chats that wait."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A request with votes. kind: the media type of its body; key: its Idempotency-Key."""

    raw: bytes
    kind: str
    key: str | None
    sender: Sender


@dataclass(slots=True)
class Ballot:
    """One vote on its way: as it was sent, then checked, then an event. Or refused, with `error`."""

    sent: Any  # a line (bytes) until it is parsed, a `Thumb` or JSON
    vote: Vote | None = None
    wish: Wish | None = None  # what is to hold for its user from now on
    event: Json | None = None  # to be logged, not sealed yet; None for what is not
    since: int = 0  # when it began (see `Voter`)
    claim: Claim | None = None
    answer: Json | None = None
    status: int = 202
    error: ApiError | None = None


class FeedbackApi:
    """Accepts votes."""

    def __init__(
        self,
        signer: Signer,
        voters: Voters,
        recorder: Recorder,
        privacy: Privacy,
        idempotency: Idempotency,
        receipts: Receipts,
        reasons: tuple[str, ...],
        take_votes: Callable[[Sender, int], Awaitable[None]],
        preferences: Preferences,
    ) -> None:
        self._signer = signer
        self._voters = voters
        self._recorder = recorder
        self._privacy = privacy
        self._idempotency = idempotency
        self._receipts = receipts
        self.reasons = reasons  # that votes may give, in the order in which they are offered
        self._reasons = frozenset(reasons)
        self._take_votes = take_votes  # counts so many against the sender's quota, or raises
        self._preferences = preferences

    async def post(self, posted: Posted) -> Reply:
        """Take one vote (202) or a batch of them (207 with an answer for each, in order).

        Everything that is acknowledged is durable. Raises BadRequest, NotFound for ids that this service
        never gave out, Unavailable when the log cannot be written. A vote may overtake its completion: the
        id's signature is enough.
        """
        if posted.key is not None:
            check_header(posted.key)
        if bodies.is_batch(posted.raw, posted.kind):
            return await self._batch(posted)
        ballot = Ballot(thumb_of(posted.raw) or parse_object(posted.raw))
        await self._take_votes(posted.sender, 1)
        vote = self._check(ballot, posted, posted.sender.rules(self._reasons))
        if vote.from_now_on:
            ballot.wish = wish_of(vote, posted.sender)
        key, raw = posted.key, posted.raw
        if vote.key is not None and not vote.dry_run:
            if key is not None and key != vote.key:
                raise BadRequest(
                    "The header Idempotency-Key and the field idempotency_key differ; send one of them.",
                    param="idempotency_key",
                )
            key, raw = vote.key, _canonical(ballot)
        if vote.dry_run or key is None:
            return await self._one(ballot)
        return await self._idempotency.once(posted.sender.scope, key, raw, partial(self._one, ballot))

    def id_of(self, vote: Json, sender: Sender) -> str:
        """The id that a vote has, or would have. Raises BadRequest and NotFound as `post` does."""
        ballot = Ballot(vote)
        self._check(ballot, Posted(b"", "application/json", None, sender), sender.rules(self._reasons))
        assert ballot.answer is not None
        return str(ballot.answer["id"])

    async def _one(self, ballot: Ballot) -> Reply:
        assert ballot.answer is not None
        if ballot.wish is not None and ballot.event is not None:
            # Before the vote, which can be sent again when it fails: what is remembered twice is there once.
            await self._preferences.add(*ballot.wish, ballot.since)
            ballot.answer["remembered"] = True
        await self._log([ballot])
        return Reply(ballot.status, ballot.answer)

    # ---- batches

    async def _batch(self, posted: Posted) -> Reply:
        ballots = [Ballot(sent) for sent in bodies.split(posted.raw, posted.kind)]
        await self._take_votes(posted.sender, len(ballots))
        work = partial(self._all, ballots, posted)
        return await self._idempotency.once(posted.sender.scope, posted.key, posted.raw, work)

    async def _all(self, ballots: list[Ballot], posted: Posted) -> Reply:
        rules = posted.sender.rules(self._reasons)
        for i, part in enumerate(bodies.slices(ballots, SLICE)):
            if i:
                await asyncio.sleep(0)
            for ballot in part:
                self._check_or_refuse(ballot, posted, rules)
        try:
            await self._claim(ballots, posted)
            await self._log(ballots)
        except BaseException:
            await asyncio.shield(self._settle(ballots, done=False))
            raise
        await self._settle(ballots, done=True)
        rejected = sum(ballot.error is not None for ballot in ballots)
        body = {
            "object": "feedback.batch",
            "accepted": len(ballots) - rejected,
            "rejected": rejected,
            "results": [_result(index, ballot) for index, ballot in enumerate(ballots)],
        }
        return Reply(207, body)

    def _check_or_refuse(self, ballot: Ballot, posted: Posted, rules: Rules) -> None:
        try:
            ballot.sent = bodies.parsed(ballot.sent)
            if self._check(ballot, posted, rules).from_now_on:
                refuse_in_batch()
        except ApiError as error:
            ballot.error = error

    async def _claim(self, ballots: list[Ballot], posted: Posted) -> None:
        """Take the keys of the votes that have one; what a key led to before is not done again."""
        for ballot in ballots:
            if ballot.vote is None or ballot.vote.key is None or ballot.event is None:
                continue
            try:
                claim = await self._idempotency.claim(
                    posted.sender.scope, ballot.vote.key, _canonical(ballot)
                )
            except ApiError as error:
                ballot.error, ballot.event = error, None
                continue
            if claim.first is not None:
                ballot.answer, ballot.status, ballot.event = claim.first.body, claim.first.status, None
            else:
                ballot.claim = claim

    async def _settle(self, ballots: list[Ballot], *, done: bool) -> None:
        for ballot in ballots:
            if ballot.claim is None:
                continue
            if done and ballot.answer is not None:
                await self._idempotency.complete(ballot.claim, Reply(ballot.status, ballot.answer))
            else:
                await self._idempotency.release(ballot.claim)

    # ---- one vote

    def _check(self, ballot: Ballot, posted: Posted, rules: Rules) -> Vote:
        """Make a vote of what was sent, and its event. Raises ApiError."""
        vote = ballot.vote = read_vote(ballot.sent, rules)
        for target in vote.event["targets"]:
            completion_id = target["completion_id"]  # "" where it has a name of the client's
            if completion_id and not self._signer.is_ours(completion_id):
                raise NotFound(
                    f"There is no completion {completion_id!r}.",
                    param=_param(as_json(ballot.sent), completion_id),
                    code="completion_not_found",
                )
        tenant, rater, key_id, ballot.since = self._voters.voter(vote, posted.sender)
        event = {
            "schema_version": 1,
            "event_id": vote_id(tenant, rater, vote.identity, vote.places),
            "at": time.time(),
            "tenant": tenant,
            "revision": self._recorder.stamp(),
            "rater": rater,
            "key_id": key_id,
            **vote.event,
        }
        if posted.kind == bodies.PLAIN and vote.token is None:
            # From a page that leaves (`navigator.sendBeacon`). Without a token any web page could send votes
            # in the name of whoever looks at it.
            raise bodies.no_votes(posted.kind)
        if vote.dry_run:
            ballot.answer, ballot.status = _would_be(event), 200
        else:
            ballot.answer = {"id": event["event_id"], "status": "accepted"}
            ballot.event = self._privacy.vote(event)
        return vote

    async def _log(self, ballots: list[Ballot]) -> None:
        """Log the events of votes durably, all or none. Raises Unavailable."""
        votes = [(ballot.event, ballot.since) for ballot in ballots if ballot.event is not None]
        if not votes:
            return
        try:
            entries = await self._recorder.votes(votes)
        except (VaultUnavailable, LogUnavailable) as error:
            raise Unavailable("Feedback cannot be stored at the moment.", code="log_unavailable") from error
        self._receipts.took(entries)


_NOT_SHOWN = ("at", "revision", "event_id", "key_id")


def _would_be(event: Json) -> Json:
    """The answer to a dry run: the event that would be stored, but for its time."""
    stored = {name: value for name, value in event.items() if name not in _NOT_SHOWN}
    return {"id": event["event_id"], "status": "valid", "dry_run": True, "event": stored}


def _canonical(ballot: Ballot) -> bytes:
    """What was sent as bytes that do not depend on spaces and the order of its fields."""
    return orjson.dumps(as_json(ballot.sent), option=orjson.OPT_SORT_KEYS)


def _result(index: int, ballot: Ballot) -> Json:
    if ballot.error is not None:
        return {"index": index, "status": ballot.error.status, **ballot.error.as_dict()}
    assert ballot.answer is not None
    return {"index": index, **ballot.answer, "status": ballot.status}


def _param(body: object, completion_id: str) -> str:
    """The field in which a vote names a completion."""
    assert isinstance(body, dict)
    for field in ("completion_id", "regeneration_of", "a", "b"):
        if body.get(field) == completion_id:
            return field
    return "groups" if "groups" in body else "targets"
