"""Are the certificates of releases what was written? Without a text, a settings file or an engine.

Decisions form a chain: each names the record of the one before by its sha256, is signed, and has the sums of
the completions and votes that it rests on and of the manifests of what it let serve. What is not in the log
any more is counted, and is no problem; what was changed is.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deploy.audit.walking import Missing, NotKept, Walk
from deploy.history.digests import Digests
from deploy.history.releases import Decision, Reached, admit, digest_of, parse
from deploy.history.signing import is_signed
from deploy.registry.errors import Collected, RegistryError, UnknownVersion
from deploy.registry.registry import Registry
from deploy.reports.standing import begun
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import EventLog
from feedback.core.losses import place
from feedback.core.replay import replay

_KINDS = ("candidate", "command", "decision", "shadowed")
NOUNS = {FEEDBACK: "votes", COMPLETIONS: "completions"}


class Problem(NamedTuple):
    """Something that does not hold. where: a decision, or a version."""

    where: str
    what: str


@dataclass(slots=True)
class Verified:
    """What was looked at, and what does not hold.

    decisions: how many there are. chained_from: the first that names the one before, None where none does.
    signed: how many are signed. held, not_kept: by what the records are, for how many decisions they were
    those that it rests on, and for how many they are not in the log. manifests: versions whose files are what
    was decided on. collected: those whose manifest is, and whose files were deleted. absent: versions that
    are not in this registry. head: number and sum of the newest
    decision: keep them elsewhere, and whoever cuts the end off is found as well.
    """

    decisions: int = 0
    chained_from: int | None = None
    signed: int = 0
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NOUNS.values(), 0))
    not_kept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NOUNS.values(), 0))
    manifests: int = 0
    collected: int = 0
    absent: list[str] = field(default_factory=list)
    head: tuple[int, str] | None = None
    problems: list[Problem] = field(default_factory=list)


def verify(
    log: EventLog,
    registry: Registry | None,
    keys: Iterable[Ed25519PublicKey] = (),
    head: str | None = None,
    wait_seconds: float = 30.0,
) -> Verified:
    """Look at all decisions of a log.

    registry: with the versions' files, None where there are none. keys: of which one has to have signed each
    decision since there are signatures; without any, they are not looked at. head: the sum of a
    decision that has to be there, as an earlier look told it. Raises `LogError` where the log cannot be read.
    """
    found, keys = Verified(), tuple(keys)
    evidence = [_Evidence(log, topic, found, wait_seconds) for topic in NOUNS]
    known: dict[str, str] = {}  # version -> sum of its manifest
    last: tuple[Decision, str] | None = None
    head_seen = head is None
    for decision, value in _counting(log, found, keys, wait_seconds):
        digest = digest_of(value)
        head_seen = head_seen or digest == head
        _check_chain(found, decision, last)
        _check_signature(found, decision, value, keys)
        for each in evidence:
            each.check(decision, last[0] if last is not None else None)
        for version, manifest in decision.state.manifests.items():
            if known.get(version) != manifest:
                known[version] = manifest
                _check_manifest(found, registry, version, manifest)
        found.decisions += 1
        last, found.head = (decision, digest), (decision.number, digest)
    if not head_seen:
        found.problems.append(Problem("the chain", f"no decision has the sha256 {head}: its end is missing"))
    return found


def _counting(
    log: EventLog, found: Verified, keys: tuple[Ed25519PublicKey, ...], wait_seconds: float
) -> Iterator[tuple[Decision, bytes]]:
    """The decisions that count, with their records. What else is in the topic is looked at on the way."""
    now, expected = Reached(), dict[str, int]()
    end = log.end([RELEASES], wait_seconds)
    for records, _ in replay(log, [RELEASES], {}, wait_seconds):
        for record in records:
            where = place(record.topic, record.partition)
            _check_offset(found, where, expected.get(where, record.offset), record.offset)
            expected[where] = record.offset + 1
            event = parse(record.value)
            if isinstance(event, Decision):
                now, counts = admit(now, event)
                if counts:
                    yield event, record.value
                elif event.signature and keys and not is_signed(record.value, keys):
                    what = f"does not count, says that it is decision {event.number}, and nobody signed it so"
                    found.problems.append(Problem(f"{where}, record {record.offset}", what))
            elif event is None and not _is_other(record.value):
                what = "was a decision or another event of releases, and cannot be read"
                found.problems.append(Problem(f"{where}, record {record.offset}", what))
    for where, offset in end.items():
        _check_offset(found, where, expected.get(where, offset), offset)


def _check_offset(found: Verified, where: str, expected: int, offset: int) -> None:
    if offset > expected:
        gone = str(expected) if offset == expected + 1 else f"{expected} to {offset - 1}"
        found.problems.append(Problem(f"{where}, record {gone}", "missing, or its checksum is wrong"))


def _is_other(value: bytes) -> bool:
    """Whether a record is of some other kind, as notes of webhooks are, or those of a newer version."""
    try:
        content = json.loads(value)
    except ValueError:
        return False
    if not isinstance(content, dict):
        return False
    kind, name = content.get("type"), content.get("event_id")
    ours = kind in _KINDS or (isinstance(name, str) and name.partition("-")[0] in _KINDS)
    return isinstance(kind, str) and not ours


def _name(decision: Decision) -> str:
    return f"decision {decision.number}"


def _check_chain(found: Verified, decision: Decision, last: tuple[Decision, str] | None) -> None:
    expected = 1 if last is None else last[0].number + 1
    if decision.number != expected:
        gone = f"{expected}" if decision.number == expected + 1 else f"{expected} to {decision.number - 1}"
        found.problems.append(Problem(f"decision {gone}", "missing, moved, or no longer readable"))
    elif decision.previous and (last is None or decision.previous != last[1]):
        where = _name(decision) if last is None else _name(last[0])
        what = f"not the record that decision {decision.number} was made after: one of the two was changed"
        found.problems.append(Problem(where, what))
    elif not decision.previous and last is not None and found.chained_from is not None:
        what = "names no decision before it, though earlier ones do: an older version or somebody wrote it"
        found.problems.append(Problem(_name(decision), what))
    begins = decision.previous or (decision.number == 1 and decision.settings is not None)
    if begins and found.chained_from is None:
        found.chained_from = decision.number


def _check_signature(
    found: Verified, decision: Decision, value: bytes, keys: tuple[Ed25519PublicKey, ...]
) -> None:
    if not decision.signature:
        if found.signed or (keys and decision.settings is not None):
            found.problems.append(Problem(_name(decision), "not signed, as every decision is now"))
        return
    found.signed += 1
    if keys and not is_signed(value, keys):
        what = "its signature is not of this content, or of another secret's key"
        found.problems.append(Problem(_name(decision), what))


def _check_manifest(found: Verified, registry: Registry | None, version: str, digest: str) -> None:
    try:
        if registry is None:
            raise UnknownVersion("there are none")
        try:
            registry.verify(version, digest)
        except Collected:
            registry.manifest(version, digest)
            found.collected += 1
            return
    except UnknownVersion:
        found.absent.append(version)
    except RegistryError as error:
        found.problems.append(Problem(version, str(error)))
    else:
        found.manifests += 1


class _Evidence:
    """The records of one topic, against the sums that decisions have of them."""

    def __init__(self, log: EventLog, topic: str, found: Verified, wait_seconds: float) -> None:
        self._walk = Walk(log, [topic], wait_seconds)
        self._topic, self._found, self._noun = topic, found, NOUNS[topic]
        self._stage: tuple[int, dict[str, int]] | None = None
        self._sums: Digests | None = Digests()  # None: this stage's records cannot be summed any more
        self._is_gone = False  # because they are not in the log
        self._held: tuple[str, dict[str, int]] = ("", {})  # up to where they were those of a decision

    def check(self, decision: Decision, before: Decision | None) -> None:
        """Whether the records are those that a decision rests on."""
        stage = None if before is None else begun(before.state, decision)
        if stage is None or decision.settings is None:
            return
        if stage != self._stage or self._walk.is_beyond(decision.cursor):
            self._stage, self._sums, self._is_gone = stage, Digests(), False
            self._held = ("the beginning of its stage", stage[1])
            self._walk.begin(stage[1])
        if self._sums is None:
            self._found.not_kept[self._noun] += self._is_gone
            return
        try:
            for records in self._walk.to(decision.cursor):
                self._sums.take(records)
        except NotKept:
            self._sums, self._is_gone = None, True
            self._found.not_kept[self._noun] += 1
            return
        except Missing as why:
            self._sums = None
            self._found.problems.append(Problem(_name(decision), f"it rests on other {self._noun}: {why}"))
            return
        mine = {where: s for where, s in decision.digests.items() if where.startswith(f"{self._topic}/")}
        found = self._sums.told()
        if found == mine:
            self._found.held[self._noun] += 1
            self._held = (_name(decision), decision.cursor)
            return
        self._sums = None
        places = [where for where in sorted({*found, *mine}) if found.get(where) != mine.get(where)]
        spans = (f"{p} from {self._held[1].get(p, 0)} to {decision.cursor.get(p, 0) - 1}" for p in places)
        what = f"it rests on other {self._noun}: a record of {', '.join(spans)} was changed, which is since"
        self._found.problems.append(Problem(_name(decision), f"{what} {self._held[0]}"))
