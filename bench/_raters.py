"""Simulated raters and the learner that listens to them, on a real log and a real engine.

The learner is the service's own (`learner.loop.learner.Learner`) and reads what it reads there: completions
and votes in the log. Here the raters write them, and every candidate that passes the learner's offline gate
is promoted at once, where the service would try it on its users first.
"""

import dataclasses
import logging
import os
import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench._servers import engine
from deploy.engines.client import EngineClient, Sample
from deploy.history.releases import Decision
from deploy.history.releases import entry as release_entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from deploy.registry.registry import Registry
from feedback.core.events import BASE, COMPLETIONS, FEEDBACK, UPDATES, Choice, Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from feedback.updates.teaching import NOTHING_KNOWN, Hint, Teaching
from feedback.updates.teaching import parse as parse_hint
from hearken.base.conversation import asked
from hearken.demo.evaluate import sample, tokenize
from hearken.demo.persona import Persona
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.machine import keep_freed_memory
from learner.model.shared import SharedModel
from learner.settings import LearnerSettings

RATERS = 200
PERSONAS = Path(__file__).resolve().parent.parent / "hearken" / "personas"


def noisy_persona(name: str, noise: float) -> Persona:
    """A shipped persona of whose votes the share `noise` is a coin toss: half of these are flipped.

    This comes on top of a persona's own doubt: the worse of two answers with nearly equal utility often wins.
    """
    return dataclasses.replace(Persona.load(PERSONAS / f"{name}.json"), noise=noise)


class School:
    """One learner with its log, its raters and an engine. `settings.data` is a folder of its own."""

    def __init__(self, settings: LearnerSettings, persona: Persona) -> None:
        self.persona = persona
        self.engine, self.max_tokens = EngineClient(settings.engine), settings.max_tokens
        self._log = SqliteLog(settings.data / "log.db")
        self._registry = Registry(settings.data / "adapters")
        model, metrics = SharedModel.of(settings), LearnerMetrics()
        self.learner = Learner(settings, self._log, self.engine, self._registry, model, metrics)
        self._rng = random.Random(f"raters {settings.seed}")
        self._tables = 0
        self.live = BASE
        self._hint = NOTHING_KNOWN
        self._hints_read: dict[str, int] = {}

    def close(self) -> None:
        self._log.close()
        self.engine.close()

    def compare(self, questions: Sequence[str]) -> None:
        """One comparison of two answers of the live policy to each question."""
        self.take(self.comparisons(questions))

    def take(self, entries: list[Entry]) -> None:
        """Write votes and what they are about into the log."""
        self._log.append(entries).result()

    def comparisons(self, questions: Sequence[str]) -> list[Entry]:
        """What `compare` writes; other learners can be given the same."""
        prompts = tokenize(self.engine.url, [asked(question) for question in questions])
        answers = [sample(self.engine, self.live, prompts, self.max_tokens) for _ in "ab"]
        entries: list[Entry] = []
        for question, a, b in zip(questions, *answers, strict=True):
            entries += self._compared(question, a, b)
        return entries

    def _compared(self, question: str, a: Sample, b: Sample, *, selected: bool = False) -> list[Entry]:
        said = self.persona.prefer(
            self.persona.utility(question, a.text), self.persona.utility(question, b.text), self._rng
        )
        return self._vote("comparison", question, (a, b), said, float(said == "a"), selected=selected)

    def ask(self, questions: Sequence[str], of: int, random_share: float) -> None:
        """One comparison for every `of` questions: of that one whose answers would teach most by the
        learner's newest hint, or, for a share of them, of one that chance chose."""
        teaching = Teaching(self._newest_hint())
        prompts = tokenize(self.engine.url, [asked(question) for question in questions])
        answers = [sample(self.engine, self.live, prompts, self.max_tokens) for _ in "ab"]
        pairs = list(zip(questions, *answers, strict=True))
        for start in range(0, len(pairs), of):
            candidates = pairs[start : start + of]
            selected = self._rng.random() >= random_share
            question, a, b = candidates[0]
            if selected:
                gains = [teaching.gain_nats(one.token_ids, other.token_ids) for _, one, other in candidates]
                question, a, b = candidates[gains.index(max(gains))]
            teaching.shown(a.token_ids, b.token_ids)
            self.take(self._compared(question, a, b, selected=selected))

    def _newest_hint(self) -> Hint:
        """The newest hint in the log, where the gateway finds it as well."""
        while True:
            records, self._hints_read = self._log.read([UPDATES], self._hints_read)
            found = [hint for record in records if (hint := parse_hint(record.value)) is not None]
            self._hint = found[-1] if found else self._hint
            if not records:
                return self._hint

    def thumb(self, questions: Sequence[str], usual: float) -> None:
        """One thumb on an answer of the live policy to each question; a toss-up at the utility `usual`."""
        prompts = tokenize(self.engine.url, [asked(question) for question in questions])
        answers = sample(self.engine, self.live, prompts, self.max_tokens)
        entries: list[Entry] = []
        for question, answer in zip(questions, answers, strict=True):
            up = self.persona.thumb_up(self.persona.utility(question, answer.text), usual, self._rng)
            entries += self._vote("thumbs", question, (answer,), "up" if up else "down", float(up))
        self.take(entries)

    def _vote(
        self,
        kind: Any,
        question: str,
        answers: tuple[Sample, ...],
        label: str,
        value: float,
        *,
        selected: bool = False,
    ) -> list[Entry]:
        rater = f"rater-{self._rng.randrange(RATERS):03d}"
        completions = [
            self._completion(rater, question, answer, "answer" if first else "reference", selected)
            for answer, first in zip(answers, (True, False), strict=False)
        ]
        targets = [Target(completion_id=completion.completion_id) for completion in completions]
        vote = Feedback(
            event_id=vote_id("default", rater, kind, [target.place for target in targets]),
            at=time.time(),
            revision=self._log.stamp(),
            kind=kind,
            rater=rater,
            targets=targets,
            value=value,
            label=label,
        )
        entries = [(COMPLETIONS, completion) for completion in completions] + [(FEEDBACK, vote)]
        key = completions[0].conversation
        return [Entry(topic, key, event.model_dump_json().encode()) for topic, event in entries]

    def _completion(self, user: str, question: str, answer: Sample, role: Any, selected: bool) -> Completion:
        name = f"chatcmpl-{uuid.UUID(int=self._rng.getrandbits(128)).hex}"
        choice = Choice(
            text=answer.text,
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
            finish_reason=answer.finish_reason,
        )
        return Completion(
            event_id=name,
            at=time.time(),
            completion_id=name,
            conversation=name,
            user=user,
            policy_version=self.live,
            arm="live",
            role=role,
            selected=selected,
            table_epoch=self._tables,
            messages=[{"role": "user", "content": question}],
            prompt_token_ids=answer.prompt_token_ids,
            choices=[choice],
        )

    def promote(self, version: str) -> None:
        """Make a candidate live, as the controller does after its trial, and let the learner know."""
        if version not in self.engine.models():
            self.engine.load(version, str(self._registry.path(version)))
        self._tables += 1
        table = RoutingTable(epoch=self._tables, live=version)
        decision = Decision(
            event_id=f"decision-{self._tables}",
            at=time.time(),
            number=self._tables,
            outcome="promoted",
            stage_before="canary",
            stage_after="idle",
            version=version,
            table=table,
            sentence=f"{version} passed the offline gate and is live",
            state=ReleaseState(table=table),
        )
        self._log.append([release_entry(decision)]).result()
        self.live = version

    def succeed(self, version: str) -> None:
        """Make a candidate live where nobody chats, so that the version before it can leave the engine."""
        previous = self.live
        self.promote(version)
        if previous != BASE:
            self.engine.unload(previous)

    def retire(self) -> None:
        """Take the live version from the engine; another school needs its place."""
        if self.live != BASE:
            self.engine.unload(self.live)

    def refusals(self) -> float:
        """How many candidates the learner has refused to publish."""
        (family,) = self.learner.metrics.refused.collect()
        return sum(row.value for row in family.samples if row.name.endswith("_total"))


@contextmanager
def lonely_engine(threads: int) -> Iterator[str]:
    """The URL of an engine that has the machine to itself, but for this process: they take turns."""
    _quiet()
    torch.set_num_threads(threads)
    keep_freed_memory()
    environment = {"OMP_NUM_THREADS": str(threads)}
    with (
        tempfile.TemporaryDirectory() as scratch,
        engine(Path(scratch), "engine", cores=os.sched_getaffinity(0), environment=environment) as server,
    ):
        yield server.url


def _quiet() -> None:
    """No line for every request."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "deploy", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
