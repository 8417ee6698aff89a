"""`hearken sync`: thumbs that were given in another service, as votes here; changes and removals follow.

A look reads all that was given within a span, and compares it with what was sent before
(`hearken/sync/plan.py`). Votes go through the service's API like any client's, so this runs wherever both
services can be reached.
"""

import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from feedback.dialects import Options
from feedback.rows.said import Misfit, Row
from hearken.base.errors import UsageError
from hearken.client import FeedbackError, Hearken
from hearken.sdk.http import MOST_VOTES
from hearken.sync.plan import Plan, plan
from hearken.sync.sources import SOURCES, Reading, SourceAway
from hearken.sync.state import Sent, SyncState
from hearken.sync.votes import Given

LONGEST_SECONDS = 90 * 86400.0
"""How far back a vote may have been given (see `serve/votes/vote.py`)."""


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """What `hearken sync` was told. span_seconds: how far back it looks. every_seconds: None for one look.
    scores: the names of scores that are votes, none for all of them."""

    source: str
    state: Path
    span_seconds: float
    options: Options
    url: str | None = None
    service: str | None = None
    every_seconds: float | None = None
    scores: Sequence[str] = ()
    accept_removals: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look came to."""

    sent: int
    unchanged: int
    back: int
    skipped: Counter[str]


def run(settings: SyncSettings) -> int:
    """Look once, or until SIGINT. Raises UsageError; one look also for a service that does not answer."""
    source = SOURCES[settings.source]
    reading = Reading(source, settings.url, os.environ)
    try:
        client = Hearken(settings.service)
    except ValueError as error:
        raise UsageError(f"the service that the votes are for is not known: {error}; or --to URL") from error
    state = SyncState(settings.state, reading.url)
    try:
        while True:
            try:
                _tell(source.title, look(settings, reading, client, state))
            except (SourceAway, FeedbackError) as error:
                said = f"hearken: {error}" if isinstance(error, FeedbackError) else str(error)
                if settings.every_seconds is None:
                    raise UsageError(
                        f"{said}; what was sent before is remembered, run it again", code=1
                    ) from error
                print(f"{said}; the next look is in {settings.every_seconds:g} s", file=sys.stderr)
            if settings.every_seconds is None:
                return 0
            threading.Event().wait(settings.every_seconds)
    finally:
        state.close()
        client.close()
        reading.close()


def look(settings: SyncSettings, reading: Reading, client: Hearken, state: SyncState) -> Looked:
    """One look. Raises SourceAway, FeedbackError and UsageError; what was done before is remembered."""
    now = time.time()
    start = now - settings.span_seconds
    given, unread, skipped = _read(reading.rows(start), settings, reading, start)
    found = plan(given, unread, state.since(start))
    if found.older:
        skipped["its rater said something newer on the same answer"] += found.older
    if found.is_sudden and not settings.accept_removals:
        raise UsageError(
            f"{len(found.back)} of {found.known} votes are gone from {reading.source.title} at once: is it "
            "still the same project, and may the key see all of it? If they were removed, run it once with "
            "--accept-removals",
            code=1,
        )
    state.keep(found.seen)
    _take_back(found, client, state)
    sent = _send(found, client, state, skipped)
    state.forget_before(now - LONGEST_SECONDS)
    return Looked(sent, len(given) - found.older - len(found.send), len(found.back), skipped)


def _read(
    rows: Sequence[Row], settings: SyncSettings, reading: Reading, start: float
) -> tuple[list[Given], list[str], Counter[str]]:
    """Rows as votes, the ids of rows that are none, and why they are none."""
    given, unread, skipped = [], [], Counter[str]()
    for row in rows:
        name = row.get("name") or row.get("key")
        if settings.scores and name is not None and name not in settings.scores:
            skipped[f"the score {name!r} is none of those that --score names"] += 1
            unread.append(str(row.get("id")))
            continue
        try:
            one = reading.source.read(row, settings.options)
        except Misfit as misfit:
            skipped[str(misfit)] += 1
            unread.append(str(row.get("id")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            skipped[f"it has another shape than is known ({type(error).__name__}: {error})"] += 1
            unread.append(str(row.get("id")))
        else:
            if one.at >= start:
                given.append(one)
    return given, unread, skipped


def _take_back(found: Plan, client: Hearken, state: SyncState) -> None:
    for sent in found.back:
        try:
            client.retract(sent.vote, sent.user)
        except FeedbackError as error:
            if error.code != "feedback_not_found":  # the service forgot it: then it counts no more, either
                raise
        state.keep([replace(sent, vote="", digest="", revision=sent.revision + 1, missed=0)])


def _send(found: Plan, client: Hearken, state: SyncState, skipped: Counter[str]) -> int:
    """Send votes, a request's worth at a time, and remember each that was taken. How many were."""
    count = 0
    for start in range(0, len(found.send), MOST_VOTES):
        piece = found.send[start : start + MOST_VOTES]
        votes = [{**one.vote, "idempotency_key": _key(state.nonce, one, known)} for one, known in piece]
        kept = []
        for (one, known), result in zip(piece, client.send_many(votes), strict=True):
            if "error" in result:
                skipped[f"refused: {result['error']['message']}"] += 1
                continue
            revision = 0 if known is None else known.revision
            kept.append(Sent(one.slot, one.item, one.at, one.digest, result["id"], revision + 1))
        state.keep(kept)
        count += len(kept)
    return count


def _key(nonce: str, one: Given, known: Sent | None) -> str:
    """The idempotency key of a change: the same when it is sent again, another for every other change."""
    revision = 0 if known is None else known.revision
    said = f"{nonce}\0{one.slot}\0{revision}\0{one.digest}"
    return "sync-" + hashlib.sha256(said.encode()).hexdigest()


def _tell(title: str, looked: Looked) -> None:
    print(
        f"{title}: {looked.sent} votes sent, {looked.back} taken back, {looked.unchanged} unchanged",
        flush=True,
    )
    for reason, times in looked.skipped.most_common():
        print(f"  {times} left out: {reason}", flush=True)
