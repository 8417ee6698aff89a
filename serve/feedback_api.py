"""POST /v1/feedback: check votes, make them events, answer when they are durable."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from feedback.events import FEEDBACK
from feedback.ids import Signer, vote_id
from feedback.log import Entry, LogUnavailable
from feedback.vault_keys import VaultUnavailable
from serve import batches
from serve.bodies import parse_object
from serve.errors import ApiError, BadRequest, NotFound, Unavailable
from serve.idempotency import Claim, Idempotency, Reply, check_header
from serve.privacy import Privacy
from serve.receipts import Receipts
from serve.recording import Recorder
from serve.voters import Sender, Voters
from serve.votes import Rules, Vote, parse_vote

Json = dict[str, Any]

SLICE = 100
"""Votes checked in one go (about 1 ms): between slices the event loop serves the chats that wait."""


@dataclass(slots=True)
class _Item:
    """One vote on its way: checked, or refused with `error`."""

    vote: Vote | None = None
    error: ApiError | None = None
    claim: Claim | None = None
    event: Json | None = None  # to be logged, not sealed yet
    since: int = 0  # when it began (see `Voter`)
    answer: Json | None = None
    status: int = 202


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
    ) -> None:
        self._signer = signer
        self._voters = voters
        self._recorder = recorder
        self._privacy = privacy
        self._idempotency = idempotency
        self._receipts = receipts
        self._reasons = frozenset(reasons)
        self._take_votes = take_votes  # counts so many against the sender's quota, or raises

    async def post(self, raw: bytes, content_type: str, key: str | None, sender: Sender) -> Reply:
        """Take one vote (202) or a batch of them (207 with an answer for each, in order).

        Everything that is acknowledged is durable. Raises BadRequest, NotFound for ids that this service
        never gave out, Unavailable when the log cannot be written. A vote may overtake its completion: the
        id's signature is enough.
        """
        check_header(key)
        if batches.is_batch(raw, content_type):
            items = batches.split(raw, content_type)
            await self._take_votes(sender, len(items))

            def batch() -> Awaitable[Reply]:
                return self._batch(items, content_type, sender)

            return await self._idempotency.once(sender.scope, key, raw, batch)
        body = parse_object(raw)
        await self._take_votes(sender, 1)
        vote, event, since = self._checked(body, self._rules(sender), sender)
        batches.check_plain_text(content_type, vote.token)
        if vote.dry_run:
            return Reply(200, _would_be(event))
        if vote.key is not None:
            if key is not None and key != vote.key:
                raise BadRequest(
                    "The header Idempotency-Key and the field idempotency_key differ; send one of them.",
                    param="idempotency_key",
                )
            key, raw = vote.key, _canonical(body)
        return await self._idempotency.once(sender.scope, key, raw, lambda: self._one(event, since))

    async def _one(self, event: Json, since: int) -> Reply:
        entries = await self._entries([(self._privacy.vote(event), since)])
        await self._append(entries, [event])
        return Reply(202, {"id": event["event_id"], "status": "accepted"})

    # ---- batches

    async def _batch(self, raw_items: list[Any], content_type: str, sender: Sender) -> Reply:
        rules = self._rules(sender)
        items: list[_Item] = []
        for part in batches.slices(raw_items, SLICE):
            if items:
                await asyncio.sleep(0)
            items += [self._take(raw, content_type, rules, sender) for raw in part]
        try:
            await self._claim(items, raw_items, sender)
            kept = [(item.event, item.since) for item in items if item.event is not None]
            if kept:
                await self._append(await self._entries(kept), [event for event, _ in kept])
        except BaseException:
            await asyncio.shield(self._settle(items, done=False))
            raise
        await self._settle(items, done=True)
        rejected = sum(item.error is not None for item in items)
        body = {
            "object": "feedback.batch",
            "accepted": len(items) - rejected,
            "rejected": rejected,
            "results": [_result(index, item) for index, item in enumerate(items)],
        }
        return Reply(207, body)

    def _take(self, raw: Any, content_type: str, rules: Rules, sender: Sender) -> _Item:
        try:
            vote, event, since = self._checked(batches.parsed(raw), rules, sender)
            batches.check_plain_text(content_type, vote.token)
        except ApiError as error:
            return _Item(error=error)
        if vote.dry_run:
            return _Item(vote, answer=_would_be(event), status=200)
        answer = {"id": event["event_id"], "status": "accepted"}
        return _Item(vote, event=self._privacy.vote(event), since=since, answer=answer)

    async def _claim(self, items: list[_Item], raw_items: list[Any], sender: Sender) -> None:
        """Take the keys of the items that have one; what a key led to before is not done again."""
        for item, raw in zip(items, raw_items, strict=True):
            if item.vote is None or item.vote.key is None or item.event is None:
                continue
            canonical = _canonical(batches.parsed(raw))
            try:
                claim = await self._idempotency.claim(sender.scope, item.vote.key, canonical)
            except ApiError as error:
                item.error, item.event = error, None
                continue
            if claim.first is not None:
                item.answer, item.status, item.event = claim.first.body, claim.first.status, None
            else:
                item.claim = claim

    async def _settle(self, items: list[_Item], *, done: bool) -> None:
        for item in items:
            if item.claim is None:
                continue
            if done and item.answer is not None:
                await self._idempotency.complete(item.claim, Reply(item.status, item.answer))
            else:
                await self._idempotency.release(item.claim)

    # ---- one vote

    def _rules(self, sender: Sender) -> Rules:
        return Rules(time.time(), self._reasons, sender.sources)

    def _checked(self, body: object, rules: Rules, sender: Sender) -> tuple[Vote, Json, int]:
        """A vote, its event, and the instant at which it began."""
        vote = parse_vote(body, rules)
        for completion_id in vote.completion_ids:
            if not self._signer.is_ours(completion_id):
                raise NotFound(
                    f"There is no completion {completion_id!r}.",
                    param=_param(body, completion_id),
                    code="completion_not_found",
                )
        tenant, rater, key_id, since = self._voters.voter(vote, sender)
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
        return vote, event, since

    async def _entries(self, votes: Sequence[tuple[Json, int]]) -> list[Entry]:
        """Votes, each with the instant at which it began, as entries of the log."""
        try:
            keys = await self._privacy.keys(votes)
        except VaultUnavailable as error:
            raise _log_away() from error
        entries: list[Entry] = []
        for start in range(0, len(votes), SLICE):
            if start:
                await asyncio.sleep(0)
            entries += [
                Entry(FEEDBACK, event["rater"], orjson.dumps(self._privacy.sealed_vote(event, keys)))
                for event, _ in votes[start : start + SLICE]
            ]
        return entries

    async def _append(self, entries: list[Entry], events: list[Json]) -> None:
        counts = Counter((event["kind"], event["label"]) for event in events)
        try:
            await self._recorder.votes(entries, counts)
        except LogUnavailable as error:
            raise _log_away() from error
        self._receipts.took(entries)
        self._recorder.traced(events)


_NOT_SHOWN = ("at", "revision", "event_id", "key_id")


def _would_be(event: Json) -> Json:
    """The answer to a dry run: the event that would be stored, but for its time."""
    stored = {name: value for name, value in event.items() if name not in _NOT_SHOWN}
    return {"id": event["event_id"], "status": "valid", "dry_run": True, "event": stored}


def _canonical(body: Json) -> bytes:
    """A body as bytes that do not depend on spaces and the order of its fields."""
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def _log_away() -> Unavailable:
    return Unavailable("Feedback cannot be stored at the moment.", code="log_unavailable")


def _result(index: int, item: _Item) -> Json:
    if item.error is not None:
        return {"index": index, "status": item.error.status, **item.error.as_dict()}
    assert item.answer is not None
    return {"index": index, **item.answer, "status": item.status}


def _param(body: object, completion_id: str) -> str:
    """The field in which a vote names a completion."""
    assert isinstance(body, dict)
    for field in ("completion_id", "regeneration_of", "a", "b"):
        if body.get(field) == completion_id:
            return field
    return "groups" if "groups" in body else "targets"
