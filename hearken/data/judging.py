"""`hearken judge`: a model votes on the pairs of answers in the log, beside people and as a rater of its own.

What it says are votes like others, with the source `model`: they are joined, weighed and told of as people's
are. A vote's id follows from what it is about, so a pair that is judged twice has one vote.
"""

import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback, Target
from feedback.core.ids import Signer, vote_id
from feedback.core.log import Cursor, Entry, EventLog, Record
from feedback.core.secret import load_secret
from feedback.opening import open_sealer
from feedback.privacy.sealing import Sealer
from hearken.ai_judge import CannotJudge, JudgeSettings, PairJudge, make_judge, verdict
from hearken.data.working import READ_LIMIT, Progress, before, completion_in, load, save, work_off

logger = logging.getLogger("hearken.judge")

UNDECIDED, GONE = "the judge's two words contradict each other", "a text was not kept"
REFUSED, ALONE = "the judge cannot judge them", "the other answer did not come in time"


Pair = tuple[Completion, Completion]
"""The user's own answer, and the reference."""


class Pairs:
    """Puts the two answers of a comparison together. `most`: that wait for their other one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[tuple[str, str], tuple[Completion, Record]] = OrderedDict()
        self.dropped = 0

    def add(self, completion: Completion, record: Record) -> Pair | None:
        """The pair that a completion makes whole, if it does. record: where it lies."""
        if completion.comparison_id is None:
            return None
        key = completion.tenant, completion.comparison_id
        other, _ = self._waiting.get(key, (None, None))
        if other is None or other.role == completion.role:
            self._waiting[key] = completion, record
            if len(self._waiting) > self._most:
                self._waiting.popitem(last=False)
                self.dropped += 1
            return None
        del self._waiting[key]
        return (completion, other) if completion.role == "answer" else (other, completion)

    def before(self, cursor: Cursor) -> dict[str, int]:
        """The cursor, but where an answer waits no later than that: whoever goes on there misses no pair."""
        return before(cursor, [record for _, record in self._waiting.values()])


class Judging:
    """One judge on one log. `state`: the file that says how far it has come."""

    def __init__(self, log: EventLog, sealer: Sealer, signer: Signer, judge: PairJudge, state: Path) -> None:
        self._log, self._sealer, self._signer, self._judge, self._state = log, sealer, signer, judge, state
        self._pairs = Pairs(judge.settings.pairs_waiting)
        self._due: list[Pair] = []
        self._cursor = self._saved = load(state)
        self.progress = Progress("pairs judged")

    def turn(self, wait_seconds: float) -> int:
        """Read what is new and judge it; how many records that were.

        Raises `LogError`, and `JudgeAway`: the next turn judges the same pairs again.
        """
        read = 0
        if not self._due:
            records, self._cursor = self._log.read([COMPLETIONS], self._cursor, READ_LIMIT, wait_seconds)
            self._due = [pair for record in records if (pair := self._whole(record)) is not None]
            read = len(records)
        with ThreadPoolExecutor(self._judge.settings.concurrency) as pool:
            found = list(pool.map(self._vote, self._due))
        entries = [
            _entry(pair, vote)
            for pair, vote in zip(self._due, found, strict=True)
            if isinstance(vote, Feedback)
        ]
        if entries:
            self._log.append(entries).result()
        self._due = []
        self.progress.take(found)
        if self._pairs.dropped:
            self.progress.skipped[ALONE] = self._pairs.dropped
        self._saved = save(self._state, self._pairs.before(self._cursor), self._saved)
        return read

    def _whole(self, record: Record) -> Pair | None:
        completion = completion_in(record, self._sealer)
        return None if completion is None else self._pairs.add(completion, record)

    def _vote(self, pair: Pair) -> Feedback | str:
        """The judge's vote on a pair, or why there is none. Raises `JudgeAway`."""
        messages = pair[0].messages
        texts = [completion.choices[0].text if completion.choices else "" for completion in pair]
        if not messages or not all(text.strip() for text in texts):
            return GONE
        try:
            value = verdict(self._judge, messages, *texts)
        except CannotJudge as error:
            logger.warning("%s and %s: %s", *(each.completion_id for each in pair), error)
            return REFUSED
        return UNDECIDED if value is None else self._feedback(pair, value)

    def _feedback(self, pair: Pair, value: float) -> Feedback:
        tenant = pair[0].tenant
        rater = self._signer.pseudonym(tenant, f"model:{self._judge.settings.name}")
        targets = [Target(completion_id=completion.completion_id) for completion in pair]
        return Feedback(
            event_id=vote_id(tenant, rater, "comparison", [target.place for target in targets]),
            at=time.time(),
            tenant=tenant,
            revision=self._log.stamp(),
            kind="comparison",
            rater=rater,
            targets=targets,
            value=value,
            label="a" if value > 0.5 else "b",
            source="model",
        )


def _entry(pair: Pair, vote: Feedback) -> Entry:
    return Entry(FEEDBACK, pair[0].conversation, vote.model_dump_json().encode())


def run(settings: JudgeSettings, *, once: bool) -> int:
    """Judge until SIGTERM, or with `once` what is in the log now. Raises UsageError and LogError."""
    judge, signer = make_judge(settings), Signer(load_secret(settings.data / "secret"))
    state = settings.data / f"judge-{signer.sign('judge', settings.name)[:8]}.json"

    def judging(log: EventLog) -> Judging:
        return Judging(log, open_sealer(settings.data), signer, judge, state)

    return work_off(settings, "judge", judging, logger, once=once)
