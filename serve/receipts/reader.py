"""What became of a vote: follows the log into the read model, and words what it says.

Voters must stay blind: which version and arm an answer came from is for operators. Which later versions a
vote helped to shape says nothing about that, so anyone who may read the receipt sees it.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from feedback.core.events import Feedback, Target
from feedback.core.log import Entry, EventLog, LogError, LogUnavailable, reached
from feedback.updates.revisions import revision_id
from serve.receipts.folding import Row
from serve.receipts.store import TOPICS, ReceiptStore
from serve.receipts.words import Standing, in_force, standing, standing_of_comment

log = logging.getLogger(__name__)

Json = dict[str, Any]

_WAIT_SECONDS = 0.25  # longest pause inside one read; also the longest that shutting down can take here
_RETRY_SECONDS = 1.0
_SLICE = 200  # records folded in one go, some milliseconds of work
_REST = 3.0  # a fold that has more to do rests so many times as long as it worked: votes come first
_PAUSE_SECONDS = 0.5  # between folds while a little comes in all the time, unless somebody asks
_FRESH_SECONDS = 2.0  # how long a question waits for the fold to reach the log's end
_RECENT = 4096  # votes that this gateway took last, known before the log gives them back
_VERSIONS = 20  # newest versions that a receipt names


class Receipts:
    """Answers what became of votes."""

    def __init__(self, events: EventLog, store: ReceiptStore) -> None:
        self._events = events
        self.store = store
        self._recent: deque[bytes] = deque(maxlen=_RECENT)
        self._cursor: dict[str, int] = {}
        self._moved = asyncio.Condition()
        self._asked = asyncio.Event()

    def close(self) -> None:
        """Let go of the read model."""
        self.store.close()

    # ---- following the log

    async def follow(self) -> None:
        """Fold the log, for ever."""
        self._cursor = await asyncio.to_thread(self._begin)
        while True:
            try:
                started = time.monotonic()
                count = await asyncio.to_thread(self._fold_some)
            except (LogError, sqlite3.Error) as error:
                log.warning("cannot follow what becomes of votes: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            async with self._moved:
                self._moved.notify_all()
            if count == _SLICE:
                await asyncio.sleep(_REST * (time.monotonic() - started))
            elif count:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), _PAUSE_SECONDS)
            self._asked.clear()

    def _begin(self) -> dict[str, int]:
        """Where the fold goes on; at the beginning when the log is shorter than what was folded."""
        cursor = self.store.cursor()
        try:
            end = self._events.end(TOPICS, _FRESH_SECONDS)
        except LogError:  # a broker that is away at boot
            return cursor
        if any(offset > end.get(place, offset) for place, offset in cursor.items()):
            log.warning("the log was replaced by a shorter one: receipts are folded from its beginning")
            self.store.forget()
            return {}
        return cursor

    def _fold_some(self) -> int:
        """Fold what is new, waiting a little for it. How many records were read."""
        records, after = self._events.read(TOPICS, self._cursor, _SLICE, _WAIT_SECONDS)
        if after == self._cursor:
            return 0
        if self.store.fold(records, self._cursor, after):
            self._cursor = dict(after)
        else:  # another gateway on the same file was faster
            self._cursor = self.store.cursor()
        return len(records)

    async def caught_up(self) -> None:
        """Wait until everything that is in the log now is folded. Raises LogUnavailable when it cannot be."""
        end = await asyncio.to_thread(self._events.end, TOPICS, _FRESH_SECONDS)
        self._asked.set()
        try:
            async with asyncio.timeout(_FRESH_SECONDS), self._moved:
                await self._moved.wait_for(lambda: reached(self._cursor, end))
        except TimeoutError as error:
            raise LogUnavailable("the log's newest events are not read yet") from error

    def took(self, entries: Sequence[Entry]) -> None:
        """Remember votes that this gateway has just stored."""
        self._recent += (entry.value for entry in entries)

    # ---- answering

    async def find(self, event_id: str) -> Row | None:
        """A vote as the read model has it (see `ReceiptStore.vote`), or None when there is none.

        Raises LogUnavailable when that cannot be said now.
        """
        recent = self._recent_row(event_id)
        found = await asyncio.to_thread(self.store.vote, event_id)
        if found is None and recent is None:
            await self.caught_up()
            found = await asyncio.to_thread(self.store.vote, event_id)
        if recent is not None and (found is None or found["revision"] < recent["revision"]):
            return recent if found is None else _later(found, recent)
        return found

    async def shaped_by(self, tenant: str, users: Sequence[str]) -> tuple[list[str], list[str]]:
        """The versions whose reward model was fitted to users' votes or to votes on the users' answers, and
        the versions that were trained on from one of these, each oldest first.

        Raises LogUnavailable.
        """
        await self.caught_up()
        shaped: dict[str, None] = {}
        for user in users:
            shaped |= dict.fromkeys(await asyncio.to_thread(self.store.trained_on, tenant, user))
        return list(shaped), descendants(shaped, await asyncio.to_thread(self.store.lineage))

    async def about(self, tenant: str, user: str) -> Row:
        """What there is of a user (see `ReceiptStore.about`). Raises LogUnavailable."""
        await self.caught_up()
        return await asyncio.to_thread(self.store.about, tenant, user)

    def _recent_row(self, event_id: str) -> Row | None:
        wanted = b'"event_id":%s,' % orjson.dumps(event_id)
        events = [Feedback.model_validate_json(each) for each in self._recent if wanted in each]
        if not events:
            return None
        event = events[-1]
        return {
            "id": event.event_id,
            "tenant": event.tenant,
            "rater": event.rater,
            "kind": event.retracts or event.kind,
            "source": event.source,
            "revision": event.revision,
            "first_at": events[0].at,
            "at": event.at,
            "revisions": len(events),
            "retracted": event.kind == "retraction",
            "targets": list(event.targets),
            "answers": [[] for _ in event.targets],
            "key_id": event.key_id,
            "refused": None,
        }

    async def receipt(self, vote: Row, *, operator: bool) -> Json:
        """What became of a vote that `find` found."""
        return await asyncio.to_thread(self._receipt, vote, operator)

    def _receipt(self, vote: Row, operator: bool) -> Json:
        uses, versions = self._used(vote)
        came = standing(vote, uses, versions)
        comment = self._commented(vote)
        if vote["kind"] == "comment" and comment is not None and not vote["retracted"]:
            came = comment
        return {
            "id": vote["id"],
            "object": "feedback.receipt",
            "kind": vote["kind"],
            "status": came.status,
            "reason": came.reason,
            "sentence": came.sentence,
            "policy": None if came.policy is None else _policy(came.policy),
            "created": vote["first_at"],
            "updated": vote["at"],
            "revisions": vote["revisions"],
            "targets": [
                _target(target, answers, operator)
                for target, answers in zip(vote["targets"], vote["answers"], strict=True)
            ],
            "updates": [_use(use, vote["revision"]) for use in uses],
            "policies": [_policy(row) for row in _named(versions)],
            "comment": None if comment is None else {"status": comment.status, "sentence": comment.sentence},
        }

    def _used(self, vote: Row) -> tuple[list[Row], list[Row]]:
        """What updates did with a vote, and the versions that it shaped, each oldest first."""
        uses = self.store.uses(vote["id"])
        versions: list[Row] = []
        for use in uses:
            if use["state"] == "training":
                versions += self.store.versions(use["since"], use["until"], _VERSIONS)
        return uses, versions

    def _commented(self, vote: Row) -> Standing | None:
        """What became of a vote's words, None where nothing did, or not yet."""
        made = self.store.vote(revision_id(vote["tenant"], vote["rater"], vote["id"]))
        return None if made is None else standing_of_comment(made, *self._used(made))

    async def shaped(self, version: str, tenant: str | None, after: str, limit: int) -> Json | None:
        """The votes that shaped a version, one page of them; None when there is no such version."""
        found = await asyncio.to_thread(self.store.version, version)
        if found is None:
            await self.caught_up()
            found = await asyncio.to_thread(self.store.version, version)
        if found is None:
            return None
        rows: list[Row] = []
        if found["updates"] is not None:
            rows = await asyncio.to_thread(self.store.shaped, found["updates"], tenant, after, limit + 1)
        page = rows[:limit]
        return {
            "object": "list",
            "version": version,
            "status": found["status"],
            "reward_updates": found["updates"],
            "data": [
                {
                    "id": row["id"],
                    "object": "feedback",
                    "kind": row["kind"],
                    "revision": row["revision"],
                    "since_update": row["since"],
                    "retracted": bool(row["retracted"]),
                }
                for row in page
            ],
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(rows) > limit,
        }


def descendants(shaped: Collection[str], lineage: Sequence[tuple[str, str | None]]) -> list[str]:
    """The versions that come from one of `shaped` and are none of these.

    lineage: versions, oldest first, each with the one that its training began from; where that is not known,
    any before it may have been.
    """
    touched: set[str] = set()
    found = []
    for version, parent in lineage:
        if version in shaped:
            touched.add(version)
        elif parent in touched or (parent is None and touched):
            touched.add(version)
            found.append(version)
    return found


def _later(folded: Row, recent: Row) -> Row:
    """A vote of which the log has given back only the earlier revisions; those, too, were taken here."""
    revisions = max(folded["revisions"] + 1, recent["revisions"])
    return recent | {"first_at": folded["first_at"], "revisions": revisions}


def _named(versions: Sequence[Row]) -> Sequence[Row]:
    """The newest versions, oldest first, and whatever older one users meet."""
    older = versions[: -_VERSIONS + 1]
    return [row for row in older if in_force(row)] + list(versions[-_VERSIONS + 1 :])


def _policy(version: Row) -> Json:
    """A version, and since when it has been what it is (Unix time in seconds)."""
    return {"version": version["version"], "status": version["status"], "since": version["status_at"]}


def _target(target: Target, answers: list[Row], operator: bool) -> Json:
    """A target and the completions that it means; where they came from is for operators."""
    named = target.model_dump(exclude_none=True)
    if not named["completion_id"]:
        del named["completion_id"]
    told = []
    for answer in answers:
        one: Json = {"completion_id": answer["id"], "at": answer["at"]}
        if operator:
            one |= {name: answer[name] for name in ("version", "arm", "prompt_hash")}
        told.append(one)
    return {**named, "joined": told}


def _use(use: Row, revision: int) -> Json:
    """What updates did with one revision of a vote."""
    return {
        "first_update": use["since"],
        "last_update": None if use["until"] is None else use["until"] - 1,
        "as": use["state"],
        "at": use["at"],
        "superseded": use["revision"] < revision,
    }
