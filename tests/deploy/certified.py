"""The log of a small service with certificates, and copies of it in which somebody changed something."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from deploy.audit.verifying import Verified, verify
from deploy.history.releases import Decision, digest_of, entry, parse
from deploy.history.signing import sign, signing_key
from feedback.core.events import RELEASES, TOPICS
from feedback.core.log import Entry, EventLog
from feedback.core.secret import load_secret
from feedback.sqlite.log import SqliteLog
from tests.deploy.world import World

Edit = Callable[[list[Entry]], Sequence[Entry]]


def tell_story(world: World) -> None:
    """A candidate is promoted and its holdback ends; the next one does harm."""
    first = world.offer()
    world.taste = lambda served: 0.8 if served == first.version else 0.4
    world.pass_time(until="promoted")
    world.pass_time(until="finished", users=5)
    second = world.offer(b"two", parent=first.version)
    world.taste = lambda served: 0.1 if served == second.version else 0.8
    world.pass_time(until="harmful")


def entries_of(log: EventLog) -> list[Entry]:
    """All that a log has, in the order in which it came."""
    found, cursor = list[Entry](), dict[str, int]()
    while True:
        records, cursor = log.read(TOPICS, cursor)
        if not records:
            return found
        found += [Entry(record.topic, record.key, record.value) for record in records]


@contextmanager
def copied(entries: Sequence[Entry], folder: Path) -> Iterator[SqliteLog]:
    """A log with these entries and nothing else, below a folder."""
    log = SqliteLog(Path(mkdtemp(dir=folder)) / "log.db")
    try:
        log.append(entries).result()
        yield log
    finally:
        log.close()


def named(found: Verified) -> list[str]:
    """Where something does not hold."""
    return [problem.where for problem in found.problems]


def decisions_in(entries: Sequence[Entry]) -> list[tuple[int, Decision]]:
    """The decisions, each with its place in the list."""
    found = []
    for i, each in enumerate(entries):
        event = parse(each.value) if each.topic == RELEASES else None
        if isinstance(event, Decision):
            found.append((i, event))
    return found


def place_of(entries: Sequence[Entry], number: int) -> int:
    """Where in the list the decision of a number is."""
    return next(i for i, decision in decisions_in(entries) if decision.number == number)


def with_value(entries: Sequence[Entry], i: int, value: bytes) -> list[Entry]:
    """The list with another value in one place."""
    return [*entries[:i], entries[i]._replace(value=value), *entries[i + 1 :]]


def rewritten(entries: Sequence[Entry], number: int, secret: bytes, /, **changes: Any) -> list[Entry]:
    """What somebody with the secret could do: one decision changed, it and all after it signed anew."""
    found, previous = list(entries), ""
    for i, decision in decisions_in(entries):
        other = {**changes, "previous": previous} if decision.number == number else {"previous": previous}
        changed = decision.model_copy(update=other if decision.number >= number else {})
        value = entries[i].value
        if decision.number >= number:
            value = entry(sign(changed, signing_key(secret))).value
        found[i] = entries[i]._replace(value=value)
        previous = digest_of(value)
    return found


def as_before(entries: Sequence[Entry]) -> list[Entry]:
    """Decisions as they were before there were certificates."""
    found = list(entries)
    for i, _ in decisions_in(entries):
        content = json.loads(entries[i].value)
        for name in ("previous", "settings", "digests", "signature"):
            content.pop(name, None)
        found[i] = entries[i]._replace(value=json.dumps(content).encode())
    return found


def verified(entries: Sequence[Entry], scratch: Path, world: World, **options: Any) -> Verified:
    """What a look at a copy says, with the key and the registry of the service."""
    key = signing_key(load_secret(world.folder / "secret")).public_key()
    with copied(entries, scratch) as log:
        return verify(log, world.registry, [key], **options)
