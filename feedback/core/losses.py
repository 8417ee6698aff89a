"""Records that were gone before a reader had read them: found, counted, and passed over only when told to.

A broker deletes by its own settings, and anyone may delete a topic and make it anew. A reader whose cursor no
longer leads to what comes next stops there, for going on would hide the loss. `hearken accept-loss CODE`
writes the code of that one loss into a file in the reader's data folder: then the reader goes on with what is
left.
"""

import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from feedback.core.log import Cursor

logger = logging.getLogger(__name__)

Reason = Literal["retention", "made anew", "cut off"]

FILE = "accepted-losses"
CODE = re.compile(r"[0-9a-f]{12}")


class Span(NamedTuple):
    """What a partition holds: offsets from `first` to before `after`."""

    first: int
    after: int


class Loss(NamedTuple):
    """Records of one topic that a reader will never see. `records`: how many it were, at least."""

    topic: str
    reason: Reason
    records: int
    code: str  # of this loss to this reader; the same as long as the reader stands where it stands
    sentence: str


def place(topic: str, partition: int) -> str:
    """The key of a partition in a cursor."""
    return f"{topic}/{partition}"


def identity_key(topic: str) -> str:
    """The key in a cursor under which lies which topic of that name was read."""
    return f"{topic}#"


def onward(
    topic: str, identity: int, spans: Sequence[Span], cursor: Cursor, *, refused: bool
) -> tuple[dict[str, int], Loss | None]:
    """Where a reader at `cursor` goes on in a topic, and what it would miss.

    identity: of the topic that is there, 0 if not known. spans: of its partitions, by their numbers. refused:
    whether the broker has refused to read at the cursor; until then one beyond the end may be one that the
    broker will know again (its end is what all replicas have).
    """
    known = cursor.get(identity_key(topic))
    told = {identity_key(topic): identity} if identity else {}
    beginning = {place(topic, n): span.first for n, span in enumerate(spans)} | told
    at = {n: cursor[place(topic, n)] for n in range(len(spans)) if place(topic, n) in cursor}
    if known is None and not at:
        return beginning, None  # a reader that begins
    beyond = {n: offset - spans[n].after for n, offset in at.items() if offset > spans[n].after}
    if (known is not None and identity and known != identity) or (known is None and refused and beyond):
        return beginning, _loss(topic, "made anew", 1, identity, at)
    if known is not None:
        at = {n: at.get(n, 0) for n in range(len(spans))}  # a partition that was added is read from its first
    gone = sum(max(0, spans[n].first - offset) for n, offset in at.items())
    after = {place(topic, n): max(at.get(n, span.first), span.first) for n, span in enumerate(spans)} | told
    if refused and beyond:
        after |= {place(topic, n): spans[n].after for n in beyond}
        return after, _loss(topic, "cut off", gone + sum(beyond.values()), identity, at)
    return after, _loss(topic, "retention", gone, identity, at) if gone else None


def _loss(topic: str, reason: Reason, records: int, identity: int, at: Mapping[int, int]) -> Loss:
    code = hashlib.sha256(repr((topic, reason, identity, sorted(at.items()))).encode()).hexdigest()[:12]
    offsets = ", ".join(f"{n}: {offset}" for n, offset in sorted(at.items())) or "its beginning"
    what = {
        "retention": f"{records} records of {topic} were deleted by the broker before they were read here",
        "made anew": f"{topic} was deleted and made anew: what was not read of the old one is lost, how much "
        "nobody knows; the new one is read from its beginning",
        "cut off": f"{topic} ends before what was read here: the broker lost {records} records or more; what "
        "came since then, up to its end, is passed over as well",
    }[reason]
    return Loss(topic, reason, records, code, f"{what} (read up to {offsets})")


class Losses:
    """The losses that readers of one process met. `folder`: where they are accepted. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._standing: dict[frozenset[str], list[Loss]] = {}  # by the topics that the reader reads

    def may_pass(self, topics: Sequence[str], losses: Sequence[Loss]) -> bool:
        """Whether a reader may go on without what it lost. New losses are counted and told."""
        accepted = self._accepted() if losses else set()
        with self._lock:
            for loss in losses:
                if loss.code not in self._told:
                    self._told.add(loss.code)
                    self._lost[loss.topic] += loss.records
                    logger.error(
                        "%s. Reading stands still: `hearken accept-loss %s --data %s` lets it go on with "
                        "what is left",
                        *(loss.sentence, loss.code, self._file.parent),
                    )
            left = [loss for loss in losses if loss.code not in accepted]
            if left:
                self._standing[frozenset(topics)] = left
            elif self._standing.pop(frozenset(topics), None):
                logger.warning("reading goes on without what was lost of %s", ", ".join(topics))
            return not left

    def lost(self) -> dict[str, int]:
        """Topic -> records lost since this process began, at least."""
        with self._lock:
            return dict(self._lost)

    def standing(self) -> set[tuple[str, str]]:
        """Topic and reason of every loss at which a reader stands."""
        with self._lock:
            return {(loss.topic, loss.reason) for some in self._standing.values() for loss in some}

    def _accepted(self) -> set[str]:
        try:
            return set(self._file.read_text().split())
        except FileNotFoundError:
            return set()
        except OSError as error:
            logger.warning("%s cannot be read: %s", self._file, error)
            return set()


def accept(folder: Path, code: str) -> None:
    """Let the reader that met a loss in this data folder go on. Raises `OSError`."""
    with (folder / FILE).open("a") as file:
        file.write(f"{code}\n")
