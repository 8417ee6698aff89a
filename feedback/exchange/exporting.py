"""The votes in a log as examples, with the texts that they are about.

The log is read twice, each time from its beginning to its end: for the votes, and for the completions that
these are about. Both are put aside as they lie in the log, sealed, in a file that the system deletes when it
is closed. So memory does not grow with the votes, and no text lies anywhere in the clear.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from math import inf

import orjson

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.core.log import EventLog
from feedback.core.replay import replay
from feedback.privacy.sealing import Sealer
from feedback.rows.examples import Example, Message

_NOT_JUDGED = {
    "comment": "it judges nothing",
    "metric": "it judges an outcome, not an answer",
    "signal": "it tells what somebody did, and judges nothing",
}
_SCHEMA = """
CREATE TABLE votes (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE wanted (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE said (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID
"""
_PUT_VOTE = """
INSERT INTO votes VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    revision = excluded.revision, value = excluded.value WHERE excluded.revision >= revision
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which votes. raters: pseudonyms, None for everyone's. since, until: Unix seconds; until is not in it.

    The time of a vote is when it was given, or when it was changed last.
    """

    tenant: str = "default"
    raters: frozenset[str] | None = None
    since: float = -inf
    until: float = inf


@dataclass(slots=True)
class _Said:
    """What one completion was asked and answered."""

    messages: tuple[Message, ...]
    texts: dict[int, str]  # choice -> text


def examples(log: EventLog, sealer: Sealer, wanted: Wanted, skipped: Counter[str]) -> Iterator[Example]:
    """The votes that stand, oldest first; `skipped` counts by reason those that are no examples.

    Raises LogUnavailable.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as aside:  # "": a file that goes when closed
        for statement in _SCHEMA.split(";"):
            aside.execute(statement)
        _put_votes_aside(log, wanted, aside, skipped)
        _put_completions_aside(log, wanted.tenant, aside)
        for (value,) in aside.execute("SELECT value FROM votes ORDER BY revision, id"):
            try:
                vote = sealer.open(Feedback.model_validate_json(value))
                if vote.kind != "retraction" and wanted.since <= _at(vote) < wanted.until:
                    yield _example(vote, aside, sealer)
            except _Skipped as reason:
                skipped[str(reason)] += 1
            except ValueError:
                continue  # a record that no reader can use: consumers count those


class _Skipped(Exception):
    """A vote that is no example, and why."""


def _put_votes_aside(log: EventLog, wanted: Wanted, aside: sqlite3.Connection, skipped: Counter[str]) -> None:
    for records, _ in replay(log, [FEEDBACK], {}):
        aside.execute("BEGIN")
        for record in records:
            try:
                vote = Feedback.model_validate_json(record.value)
            except ValueError:
                continue
            if vote.tenant != wanted.tenant:
                skipped["it is another tenant's"] += 1
            elif wanted.raters is None or vote.rater in wanted.raters:
                aside.execute(_PUT_VOTE, (vote.event_id, vote.revision, record.value))
                names = ((t.completion_id or t.external_id,) for t in vote.targets if not t.episode_id)
                aside.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", names)
        aside.execute("COMMIT")


def _put_completions_aside(log: EventLog, tenant: str, aside: sqlite3.Connection) -> None:
    put = "INSERT OR REPLACE INTO said SELECT name, ? FROM wanted WHERE name IN (?, ?)"
    for records, _ in replay(log, [COMPLETIONS], {}):
        aside.execute("BEGIN")
        for record in records:
            try:
                event = orjson.loads(record.value)
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict) and event.get("tenant", "default") == tenant:
                names = (str(event.get("completion_id")), event.get("external_id"))
                aside.execute(put, (record.value, *names))
        aside.execute("COMMIT")


def _at(vote: Feedback) -> float:
    return vote.at if vote.occurred_at is None else vote.occurred_at


def _example(vote: Feedback, aside: sqlite3.Connection, sealer: Sealer) -> Example:
    if vote.kind in _NOT_JUDGED:
        raise _Skipped(f"a {vote.kind}: {_NOT_JUDGED[vote.kind]}")
    if any(target.episode_id is not None for target in vote.targets):
        raise _Skipped("it judges a whole conversation")
    found = [_said(t.completion_id or t.external_id or "", aside, sealer) for t in vote.targets]
    answers = [_text(one, target.choice) for one, target in zip(found, vote.targets, strict=True)]
    messages = found[0].messages if found[0] is not None else ()
    if any(one is not None and one.messages != messages for one in found):
        raise _Skipped("its answers are to different messages")
    demonstrates = vote.kind == "correction" and vote.text == answers[0]
    if vote.kind == "correction" and not demonstrates:
        answers.insert(0, vote.text or "")
    try:
        return Example(
            "demonstration" if demonstrates else vote.kind,  # type: ignore[arg-type]
            messages,
            tuple(answers),
            1.0 if vote.kind == "correction" else vote.value,
            rater=vote.rater,
            at=_at(vote),
            comment=vote.comment,
            tags=tuple(vote.tags),
            reasons=tuple(vote.reasons),
            groups=tuple(map(tuple, vote.groups or ())),
            metadata=vote.metadata,
        )
    except ValueError as error:
        raise _Skipped(str(error)) from error


def _said(name: str, aside: sqlite3.Connection, sealer: Sealer) -> _Said | None:
    """The newest completion with an id, or with a client's name for it."""
    row = aside.execute("SELECT value FROM said WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    completion = sealer.open(Completion.model_validate_json(row[0]))
    return _Said(tuple(completion.messages), {choice.index: choice.text for choice in completion.choices})


def _text(said: _Said | None, choice: int) -> str:
    if said is None:
        raise _Skipped("its completion is not in the log any more")
    text = said.texts.get(choice)
    if not text or not said.messages:
        raise _Skipped("its text was not kept, or was erased")
    return text
