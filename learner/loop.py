"""The learner: votes in, candidates out. Reads top to bottom as one turn after another.

    read the log -> (enough new votes) update the reward models
                 -> (nothing on trial) sample fresh answers, score them, one PPO step
                 -> (enough steps, or a KL limit reached) compare with live, publish or refuse
                 -> checkpoint

Every turn that changed something ends with a checkpoint, which holds the log offsets too: a process killed
at any instant continues from its last turn, and what it had read since is read again.
"""

import dataclasses
import logging
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from prometheus_client import start_http_server

from deploy.engine import EngineClient, EngineError, PromptsRefused, Sample
from deploy.gate import verdict
from deploy.manifest import GateNumbers
from deploy.registry import Registry
from deploy.releases import Candidate, Decision, parse
from deploy.table import RoutingTable
from deploy.thoughts import thoughts_of
from feedback.erasures import Erasure, parse_erasure
from feedback.events import BASE, COMPLETIONS, FEEDBACK, RELEASES
from feedback.importing import IMPORTED
from feedback.join import Answer, Joiner, Label
from feedback.joins import CompletionsUnavailable
from feedback.log import Entry, EventLog, LogUnavailable, Record
from feedback.opening import open_log, open_sealer
from feedback.usage import Usage, usage_events
from feedback.usage import entry as usage_entry
from learner import candidate as candidates
from learner import checkpoint, sealed
from learner.askable import Askable
from learner.batching import Item
from learner.features import AnswerFeatures
from learner.judge import JudgingModel
from learner.labels import CAPACITY, LabelStore
from learner.ladder import RewardLadder
from learner.leading import LeadingPPO, follow
from learner.lengths import after_cut_off, kl_limit, rollout_tokens
from learner.machine import keep_freed_memory
from learner.measuring import Measured
from learner.memory import Memory
from learner.metrics import GATE, LearnerMetrics
from learner.model import ADAPTERS, LIVE, POLICY, READER, SharedModel
from learner.ppo import PPO
from learner.ranks import Ranks
from learner.reader import Reader
from learner.reindex import reindex
from learner.reopening import reopened
from learner.rollouts import Journal, RolloutSampler, distinct_prompts
from learner.settings import LearnerSettings
from learner.signals import AnswerTokenizer
from learner.trust import Agreement, Standing, quarantine, standings, trusted
from learner.watching import Watch

logger = logging.getLogger("hearken.learner")

UNDO_STEPS = 2
"""How many PPO steps can be undone before the policy starts again from live."""

SOFT_LIMIT = 0.9
"""Training stops at this share of a KL limit: the measurement has noise, and the gate's limit is hard."""

SLOWEST_PACE = 1 / 8
"""Of the learning rate. A policy that runs away at this pace too does not do so by haste."""

READ_LIMIT = 2000
"""Records of one read."""

FETCH_SECONDS = 5.0
"""How long a broker may need for the completions that votes are about."""

FAR_BEHIND = 4 * CAPACITY
"""Unread records, of which some half may be votes, from which on most answers need not be opened."""

READ_AHEAD = 16
"""Voted answers that the base reads at a time while the learner waits: a second or two of a small model."""

UPDATE_SHARE = 0.15
"""New labels as a share of all that start a reward-model update."""

COMPLETIONS_FOR_LENGTH = 2000
"""The newest in the log: their lengths say how long rollouts may be."""

SAVE_SECONDS, SAVE_SHARE = 5.0, 4
"""The time between two checkpoints while the learner only reads, at least so many times what one takes."""


@dataclasses.dataclass
class Place:
    """Where the loop stands; all of it is in the checkpoint."""

    turn: int = 0  # counts checkpoints
    cursor: dict[str, int] = dataclasses.field(default_factory=dict)
    table_epoch: int = -1
    live: str = BASE
    trial: str | None = None  # the candidate that the controller has, not yet decided
    steps: int = 0  # PPO steps ever
    steps_since_offer: int = 0
    at_limit: bool = False  # a KL limit was reached: no more steps before the next offer
    reward_updates: int = 0
    new_labels: int = 0  # training labels since the last reward update
    rollouts: int = 0
    pace: float = 1.0  # of the learning rate: halved when the policy runs away, doubled when it goes live
    gave_up_at: int = 0  # the reward update with which training led to nothing good: a later one is needed
    rollout_tokens: int = 0  # the longest rollout, where batches with answers cut off raised it


class Learner:
    """One learner on one log. Dependencies come wired; `turn` is one step of the loop."""

    def __init__(
        self,
        settings: LearnerSettings,
        log: EventLog,
        engine: EngineClient,
        registry: Registry,
        model: SharedModel,
        metrics: LearnerMetrics,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings = settings
        self.log = log
        self.engine = engine
        self.registry = registry
        self.model = model
        self.metrics = metrics
        self.folder = settings.data / "learner"
        self.sampler = RolloutSampler(engine, self.folder / "rollouts")
        self.journal = Journal(self.folder / "sampled")
        self.askable = Askable(metrics)
        self.untrained = model.adapter_state(LIVE)  # changes nothing: the base
        self.place = Place()
        self.sealer = open_sealer(settings.data)
        self.memory = Memory(self.folder)
        fetch = partial(log.fetch, wait_seconds=FETCH_SECONDS)
        self.joins = self.memory.joins(fetch, self.sealer, settings.join_window)
        self.joiner = Joiner(sealer=self.sealer, joins=self.joins)
        self.joiner.refused = self._bury
        self.labels = LabelStore(settings.judge_share, tokenize=AnswerTokenizer(settings.model))
        reader = Reader(model, settings.reward) if READER in model.adapters else None
        self.features = AnswerFeatures(model, reader.score if reader else None)
        self.reward = RewardLadder(self.features, settings.reward, seed=settings.seed + 1, reader=reader)
        self.judge = JudgingModel(self.features, settings.reward, self.reward, seed=settings.seed + 2)
        self.ppo = LeadingPPO(model, settings.ppo, seed=settings.seed + 3, ranks=ranks)
        self.agreement = Agreement(self.memory.raters)
        self.standings: dict[str, Standing] = {}
        self.untold: list[Usage] = []  # what reward updates used, to be told once they are in a checkpoint
        self.watch = Watch(self.reward, self.judge, settings.pessimism, settings.self_check)
        self.earlier: list[Any] = []  # snapshots of the policy before its newest PPO steps, newest last
        self._next_save = 0.0  # monotonic seconds
        self.far_behind = FAR_BEHIND
        self._has_bare = True  # whether there may be labels whose answers were not opened
        self._behind = 0  # records that the log had, and that were not read, at the last look
        self._caught_up = False
        self._unsaved = False  # whether records were read since the last checkpoint
        self._unread: deque[Answer] = deque()  # voted answers that the base has perhaps not read

    # -- one turn ---------------------------------------------------------------------------------------

    def turn(self, wait_seconds: float) -> None:
        """Read what is new (waiting for it only when there is nothing else to do), then do one thing.

        A learner that is far behind only reads, and saves now and then how far it came.
        """
        self.ppo.keep_waiting()
        busy = self._can_improve() or self._rewards_are_due()
        self._read(0.0 if busy else wait_seconds)
        try:
            self._reopen()
            if self._caught_up and self._rewards_are_due():
                self._update_rewards()
            elif self._caught_up and self._can_improve():
                if self.place.at_limit or self.place.steps_since_offer >= self.settings.steps_per_candidate:
                    self._offer()
                else:
                    self._improve()
            else:
                self.metrics.show_phase("waiting")
                self._read_answers_ahead()
                if not self._unsaved or time.monotonic() < self._next_save:
                    return  # reading alone needs no checkpoint each time: the log has it
        except PromptsRefused as error:
            self.askable.leave_out(error)  # and draw others in the next turn
        except EngineError as error:
            logger.warning("the engine cannot sample now, waiting for it: %s", error)
            self._read(1.0)
        except CompletionsUnavailable as error:
            logger.warning("completions cannot be read now, waiting for the log: %s", error)
            self._read(1.0)
        self.save()

    def _rewards_are_due(self) -> bool:
        """After a number of new labels, and not before they are a fair share of all: a fit reads all."""
        known = len(self.labels.training)
        return self.place.new_labels >= max(self.settings.labels_per_update, UPDATE_SHARE * known)

    def _can_improve(self) -> bool:
        return (
            self.place.trial is None
            and self.place.reward_updates > self.place.gave_up_at
            and len(self.labels.training) >= self.settings.min_labels
        )

    # -- reading the log --------------------------------------------------------------------------------

    def _read(self, wait_seconds: float) -> None:
        """Take in all that is in the log, or what can be read until it is time to save.

        Waits for the first record only.
        """
        while records := self._read_some(wait_seconds):
            wait_seconds = 0.0
            self._unsaved = True
            # A broker may give little at a time while there is much.
            self._caught_up = len(records) < READ_LIMIT and self._behind < READ_LIMIT
            if self._caught_up or time.monotonic() >= self._next_save:
                return
        self._caught_up = self._behind < READ_LIMIT

    def _read_some(self, wait_seconds: float) -> list[Record]:
        topics = (COMPLETIONS, FEEDBACK, RELEASES)
        records, cursor = self.log.read(topics, self.place.cursor, READ_LIMIT, wait_seconds)
        votes = [record for record in records if record.topic != RELEASES]
        self.joins.opens = self._behind < self.far_behind
        self._has_bare |= not self.joins.opens
        try:
            with self.memory.attempt():
                joined = self.joiner.feed(votes)
        except CompletionsUnavailable as error:
            logger.warning("votes cannot be joined now, waiting for the log: %s", error)
            return []
        self._lose()
        for label in self.labels.add(label for label in joined if self._is_in_our_words(label)):
            self.metrics.labels.labels(label.kind).inc()
            self._count_new(label)
        self._follow([record for record in records if record.topic == RELEASES])
        self.place.cursor = dict(cursor)
        self._behind, lag_seconds = self.log.behind(topics, cursor)
        self.metrics.lag_events.set(self._behind)
        self.metrics.lag_seconds.set(lag_seconds)
        return records

    def _reopen(self) -> None:
        """Open the answers that were not while the learner was far behind, of labels that are still there."""
        if self._caught_up and self._has_bare:
            self.joins.opens = True
            found = reopened(self.labels.bare(), self.joins)
            labels = [label for label in found if self._is_in_our_words(label)]
            self.labels.reopen(labels)
            for label in labels:
                self._count_new(label)
            self._has_bare = False

    def _lose(self) -> None:
        """Tell of the votes that never can be joined."""
        for vote in self.joiner.lost:
            self.labels.lose(vote.event_id, vote.revision)
            self.metrics.votes_lost.inc()
        self.joiner.lost.clear()

    def _bury(self, record: Record, reason: str) -> None:
        self.metrics.dead_letters.inc()
        self.log.bury("learner", record, reason)

    def _is_in_our_words(self, label: Label) -> bool:
        """Whether the model has all tokens of a label's answers; those of another model may be in the log."""
        known = all(self._knows((*a.prompt_token_ids, *a.token_ids)) for a in label.answers)
        if not known:
            logger.error("vote %s is about tokens that this model does not have; left out", label.event_id)
            self.metrics.dead_letters.inc()
        return known

    def _knows(self, token_ids: Sequence[int]) -> bool:
        return not token_ids or (min(token_ids) >= 0 and max(token_ids) < self.model.vocab_size)

    def _count_new(self, label: Label) -> None:
        self._unread.extend(self.labels.answers_of(label))
        if self.labels.teaches(label) and not self.labels.is_judging(label):
            self.place.new_labels += 1

    def _follow(self, records: list[Record]) -> None:
        for record in records:
            event = parse(record.value)
            if erasure := parse_erasure(record.value):
                self._forget(erasure)
            elif isinstance(event, Candidate):
                self.place.trial = event.version  # ours, or published just before a crash
            elif isinstance(event, Decision):
                if event.table is not None and event.table.epoch > self.place.table_epoch:
                    self._take_table(event.table)
                if event.version == self.place.trial and event.settled:
                    self._settle(event)

    def _forget(self, erasure: Erasure) -> None:
        self.joiner.forget_texts(erasure.tenant, erasure.user)
        self.labels.erase(erasure.tenant, erasure.user)
        self.memory.scrub()
        self.features.forget()
        self._unread.clear()
        self.askable.forget()
        self.watch.forget((erasure.tenant, erasure.user))

    def _take_table(self, table: RoutingTable) -> None:
        self.place.table_epoch = table.epoch
        if table.live != self.place.live:
            self.place.live = table.live
            if table.live == BASE:
                self.model.load_adapter_state(LIVE, self.untrained)
            else:
                self.model.load_adapter(self.registry.path(table.live), LIVE)
            if table.live != self.place.trial:  # somebody went back: train on from what serves
                self._restart_from_live()

    def _settle(self, decision: Decision) -> None:
        logger.info("%s", decision.sentence)
        self.place.trial = None
        self.earlier = []
        self.place.steps_since_offer = 0
        self.place.at_limit = False
        if decision.version == self.place.live:
            self.watch.restart()
            self.place.pace = min(1.0, 2 * self.place.pace)
        elif decision.outcome != "inconclusive":
            self._restart_from_live()

    def _restart_from_live(self) -> None:
        self.model.copy_adapter(LIVE, POLICY)
        self.earlier = []
        self.watch.restart()
        self.place.steps_since_offer = 0
        self.place.at_limit = False
        self.place.rollout_tokens = 0

    # -- the reward model -------------------------------------------------------------------------------

    def _read_answers_ahead(self) -> None:
        """Let the base read voted answers while there is nothing else to do, for a shorter next update.

        Always so many at a time, whenever they came: an answer's features may have other last bits in other
        company.
        """
        while self._unread and self.features.knows(self._unread[0]):
            self._unread.popleft()
        if len(self._unread) >= READ_AHEAD:
            self.features.read([self._unread.popleft() for _ in range(READ_AHEAD)])

    def _update_rewards(self) -> None:
        self.metrics.show_phase("reward")
        self._weigh_raters()
        self._fit_rewards()
        self.place.reward_updates += 1
        self.metrics.show_rungs(self.reward)
        logger.info("reward update %d: %s", self.place.reward_updates, self.reward.describe())
        self.place.new_labels = 0
        self.askable.forget()
        self.untold += usage_events(
            self.place.reward_updates, time.time(), self.place.cursor, self.labels.take_news()
        )
        self.metrics.reward_updates.inc()

    def _fit_rewards(self) -> None:
        training, judging = (
            trusted(labels, self.agreement, self.settings.trust)
            for labels in (self.labels.training, self.labels.judging)
        )
        if training:
            self.reward.update(training)
        if judging:
            self.metrics.show_calibration(self.reward.calibrate(judging))
            self.judge.update(judging)

    def _weigh_raters(self) -> None:
        """See which votes have to wait, and how well the others were foreseen."""
        votes, rules = self.labels.votes, self.settings.trust
        now = max((vote.at for vote in votes), default=0.0)  # the log's time: a replay comes to the same
        waiting = quarantine(votes, rules, now)
        self.labels.hold(waiting)
        new = self.agreement.unseen([*self.labels.training, *self.labels.judging])
        if self.place.reward_updates:
            if self.reward.foresee([label for label in new if self.labels.is_judging(label)]):
                self.watch.rejudge()
            self.agreement.add(new, self.reward.predictions(new))
        self.agreement.forget_others(votes)
        self.standings = standings(votes, waiting, self.agreement, rules)
        self.metrics.show_waiting(waiting.values())

    # -- the policy -------------------------------------------------------------------------------------

    def _sample(self, prompts: list[list[int]], longest: int) -> list[Sample]:
        """Answers of the policy. The number of the batch grows only once they are there."""
        number = self.place.rollouts + 1

        def draw() -> list[Sample]:
            with self.sampler.serving(self.model.save_policy, number) as name:
                return self._draw(name, prompts, f"policy {number}", longest)

        samples = self.journal.once(f"policy {number} {self.model.policy_digest}", prompts, draw)
        self.place.rollouts = number
        return samples

    def _sample_live(self, prompts: list[list[int]], longest: int) -> list[Sample]:
        """Answers of the live policy to the prompts of the newest batch."""
        batch, live = f"live {self.place.rollouts}", self.place.live
        name = f"{batch} {live}"
        return self.journal.once(name, prompts, lambda: self._draw(live, prompts, batch, longest))

    def _draw(self, name: str, prompts: list[list[int]], batch: str, longest: int) -> list[Sample]:
        seed = f"{self.settings.seed} {batch}"
        return self.sampler.sample(name, prompts, max_tokens=longest, seed=seed)

    def _rollout_tokens(self) -> int:
        """The longest rollout: as long as answers in the log are, and longer once that cut too many off."""
        newest = [*self.joiner.completions.values()][-COMPLETIONS_FOR_LENGTH:]
        answers = chain.from_iterable(newest)
        lengths = [a.tokens for a in answers if a.tokens and a.policy_version != IMPORTED]
        most = self.sampler.longest(self.settings.max_tokens)
        limit = rollout_tokens(lengths, self.settings.rollout_quantile, most)
        return min(most, max(limit, self.place.rollout_tokens))

    def _prompts(self, count: int, longest: int, *, held_out: bool) -> list[list[int]]:
        """Prompts of the log that leave room for an answer of `longest` tokens."""
        asked = (choices[0] for choices in self.joiner.completions.values() if choices)
        prompts = (
            answer.prompt_token_ids
            for answer in asked
            if answer.policy_version != IMPORTED
            and not self.labels.is_erased(answer.tenant, answer.user)
            and self._knows(answer.prompt_token_ids)
        )
        distinct = distinct_prompts(prompts, held_out=held_out)
        pool = self.askable.of(distinct, self.sampler.room(longest), "gate" if held_out else "rollouts")
        draw = random.Random(f"{self.settings.seed} {self.place.rollouts} {held_out}")
        return draw.sample(pool, count) if len(pool) >= count else draw.choices(pool, k=count) if pool else []

    def _owners(self) -> dict[Sequence[int], tuple[str, str]]:
        """Tenant and user of every prompt in the log."""
        return {
            answer.prompt_token_ids: (answer.tenant, answer.user)
            for choices in self.joiner.completions.values()
            for answer in choices
        }

    def _improve(self) -> None:
        longest = self._rollout_tokens()
        prompts = self._prompts(self.settings.rollouts_per_step, longest, held_out=False)
        if not prompts:
            self._read(1.0)  # a chat may bring one
            return
        self.metrics.show_phase("rollout")
        rollouts = self._sample(prompts, longest)
        measured = self.ppo.measure(rollouts)
        self.place.rollout_tokens = after_cut_off(longest, measured.cut_off_ratio, self.settings.max_tokens)
        self.metrics.show_rollouts(measured, self._kl_limits(measured.response_tokens))
        if self._share_of_limits(measured) > 1:
            kl_base, kl_live = measured.kl_nats_base, measured.kl_nats_live
            self._undo(f"KL {kl_base:.2f} nats to base, {kl_live:.2f} to live")
            return
        scores = self._scores(rollouts)
        self.watch.observe(measured, scores, self._owners(), self.place.reward_updates)
        self.metrics.judge_agreement.set(self.watch.history[-1].judge_agreement)
        if self.watch.concern():
            self.place.at_limit = True  # what follows is the refusal
            return
        if self._share_of_limits(measured) > SOFT_LIMIT:
            if self.place.steps_since_offer:
                self.place.at_limit = True  # offered as it is, and as it was measured
            else:
                self._leave_no_room()
            return
        self.metrics.show_phase("ppo")
        self.earlier = [*self.earlier, self.ppo.snapshot()][-UNDO_STEPS:]
        report = self.ppo.step(measured, scores, self._demonstrations(), self.place.pace)
        self.place.steps += 1
        self.place.steps_since_offer += 1
        self.metrics.show_step(report)

    def _demonstrations(self) -> list[Item]:
        """Some of the answers that raters wrote, for PPO to imitate: a quarter of a batch at most."""
        known = self.labels.demonstrations
        draw = random.Random(f"{self.settings.seed} {self.place.steps} demonstrations")
        return [*draw.sample(known, min(len(known), self.settings.rollouts_per_step // 4))]

    def _kl_limits(self, tokens: float) -> tuple[float, float]:
        """The hard KL limits to base and to live of answers of `tokens` tokens, in nats per response."""
        settings = self.settings
        return kl_limit(settings.kl_budget_nats, tokens), kl_limit(settings.kl_publish_nats, tokens)

    def _share_of_limits(self, measured: Measured) -> float:
        """How much of the KL limit that is nearer the policy has used."""
        to_base, to_live = self._kl_limits(measured.response_tokens)
        return max(measured.kl_nats_base / to_base, measured.kl_nats_live / to_live)

    def _undo(self, why: str) -> None:
        """Go back before the newest PPO step, or to live; what is left is offered, unless it is live."""
        logger.warning("undid a PPO step, it went past a limit: %s", why)
        self.metrics.ppo_undone.inc()
        if not self.earlier:
            self._leave_no_room()
            return
        self.ppo.restore(self.earlier.pop())
        if self.model.same(POLICY, LIVE):
            self._slow_down()
            self._restart_from_live()
        else:
            self.place.at_limit = True

    def _leave_no_room(self) -> None:
        """Back to live, from a policy that was offered already and cannot be improved within the KL limits.

        Where that is live itself, the same votes would lead here again and again: new ones are waited for.
        """
        if self.model.same(POLICY, LIVE):
            logger.info("live has used up what KL it may have to the base; waiting for more votes")
            self.place.gave_up_at = self.place.reward_updates
        self._restart_from_live()

    def _slow_down(self) -> None:
        """Half the learning rate for a policy that moves too far; new votes when it is not for haste."""
        if self.place.pace > SLOWEST_PACE:
            self.place.pace /= 2
        else:
            self.place.gave_up_at = self.place.reward_updates

    def _scores(self, samples: list[Sample]) -> torch.Tensor:
        items: list[Item] = [s.judged for s in samples]
        rewards, disagreement = self.reward.rewards(items, self.settings.pessimism)
        self.metrics.reward_disagreement.set(float(disagreement.mean()))
        return rewards

    # -- offering a candidate ---------------------------------------------------------------------------

    def _offer(self) -> None:
        if found := self.watch.concern():
            self.place.at_limit = True
            if found.reason == "KL runaway":
                self._slow_down()
            else:
                self.place.gave_up_at = self.place.reward_updates
            self._refuse(found.sentence, found.reason)
            return
        longest = self._rollout_tokens()
        prompts = self._prompts(self.settings.gate_prompts, longest, held_out=True)
        if not prompts:
            self._read(1.0)
            return
        self.metrics.show_phase("gate")
        ours = self._sample(prompts, longest)
        live = self._sample_live(prompts, longest)
        judged_ours, judged_live = (
            self.judge.rewards([s.judged for s in samples])[0] for samples in (ours, live)
        )
        measured = self.ppo.measure(ours)
        numbers = candidates.compare(
            ours,
            live,
            (judged_ours, judged_live),
            (measured.kl_nats_base, measured.kl_nats_live),
            self._kl_limits(measured.response_tokens),
        )
        self.metrics.win_ratio.set(numbers.win_rate)
        judged = verdict(numbers, self.settings.gate)
        if judged.passed:
            self._publish(numbers)
        elif self._share_of_limits(measured) > 1 and self.earlier:
            self._undo(judged.sentence)
        else:
            self._refuse(judged.sentence, GATE)

    def _publish(self, numbers: GateNumbers) -> None:
        manifest = candidates.publish(
            self.registry,
            self.model,
            parent=self.place.live,
            training={
                "labels": self.labels.used,
                "reward_updates": self.place.reward_updates,
                "ppo_steps": self.place.steps,
            },
            offsets=self.place.cursor,
            gate=numbers,
            probes=candidates.make_probes(self.model),
        )
        event = Candidate.announce(manifest.version, reward_updates=self.place.reward_updates)
        self.log.append([Entry(RELEASES, "release", event.model_dump_json().encode())]).result()
        self.place.trial = manifest.version
        self.metrics.candidates.inc()
        logger.info("offered %s: judged win rate %.2f against live", manifest.version, numbers.win_rate)

    def _refuse(self, sentence: str, reason: str) -> None:
        logger.warning("did not publish: %s", sentence)
        self.metrics.refused.labels(reason).inc()
        if self.place.at_limit:
            self._restart_from_live()
        self.place.steps_since_offer = self.settings.steps_per_candidate // 2

    # -- checkpoints ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Make everything up to here one checkpoint."""
        started = time.monotonic()
        self.place.turn += 1
        self.joiner.lost += self.joins.sweep()
        self._lose()
        tensors = {
            "adapters": {name: self.model.adapter_state(name) for name in ADAPTERS},
            "reward": self.reward.state_dict(),
            "judge": self.judge.state_dict(),
            "ppo": self.ppo.snapshot(),
            "earlier": self.earlier,
            "scores": self.features.scores_state(),
        }
        state = {
            "place": dataclasses.asdict(self.place),
            "joiner": self.joiner.state(),
            "labels": self.labels.summary(),
            "agreement": self.agreement.state(),
            **self.watch.state(),
            "untold": [event.model_dump(mode="json") for event in self.untold],
        }
        suspects = {r: dataclasses.asdict(s) for r, s in self.standings.items() if s.is_suspect}
        ledger = {"cursor": self.place.cursor, **self.labels.ledger(), "raters": suspects}
        self.memory.save_labels(*self.labels.changes(), self.sealer)
        self.memory.save_features(*self.features.changes())
        state = sealed.seal(state, self.sealer)
        checkpoint.save(self.folder, self.place.turn, tensors, state, ledger, self.memory.commit)
        self.journal.clear()
        now = time.monotonic()
        self._next_save = now + max(SAVE_SECONDS, SAVE_SHARE * (now - started))
        self._unsaved = False
        self.log.hold("learner", self.place.cursor)
        self._tell()

    def _tell(self) -> None:
        """Say which votes the saved reward updates used; after a crash again, in the same words."""
        if not self.untold:
            return
        try:
            self.log.append([usage_entry(event) for event in self.untold]).result()
        except LogUnavailable as error:
            logger.warning("cannot tell yet which votes were used: %s", error)
            return
        self.untold = []

    def resume(self) -> bool:
        """Continue from the current checkpoint; False when there is none yet."""
        found = checkpoint.load(self.folder, self.memory.step)
        if found is None:
            self.memory.clear()
            return False
        tensors, state = found[0], sealed.unseal(found[1], self.sealer)
        self.place = Place(**state["place"])
        self._remember(tensors, state)
        self.watch.restore(state)
        self.untold = [Usage.model_validate(event) for event in state.get("untold", [])]
        for name, weights in tensors["adapters"].items():
            self.model.load_adapter_state(name, weights)
        self.ppo.restore(tensors["ppo"])
        self.earlier = tensors["earlier"]
        answers = chain.from_iterable(map(self.labels.answers_of, self.labels.votes))
        self._unread = deque(answer for answer in answers if not self.features.knows(answer))
        try:
            self.reward.load_state_dict(tensors["reward"])
            self.judge.load_state_dict(tensors["judge"])
        except ValueError as error:
            logger.warning(
                "the checkpoint's reward models are of another kind, they are fitted anew: %s", error
            )
            self._fit_rewards()
        self._tell()
        return True

    def _remember(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Take up what the memory has, or what a checkpoint has that is of before there was one."""
        agreement = state.get("agreement", {"seen": {}, "sums": {}})
        if self.memory.step is not None:
            self.joins.restore(state["joiner"])
            self.labels.restore(state["labels"], self.memory.labels(self.sealer))
            self.agreement.restore(agreement)
            self.features.restore_rows(self.memory.features(), tensors["scores"])
        elif "votes" in state["joiner"]:
            self.memory.clear()
            reindex(self.joiner, self.log, self.place.cursor)
            self.labels.restore(state["labels"])
            self.agreement.restore(agreement)
            if "features" in tensors:  # not in the oldest
                self.features.restore(tensors["features"])
        else:
            raise checkpoint.CheckpointLost(
                f"{self.memory.path} is gone, and the checkpoint is of no use without it. Move the folder "
                f"{self.folder} away, and the learner learns anew from the log"
            )
        self.joiner.poison = state["joiner"]["poison"]


def with_rank(settings: LearnerSettings) -> LearnerSettings:
    """The settings with the rank that the registry's versions need: a version 0 may have a higher one."""
    rank = Registry(settings.data / "adapters").rank(settings.rank or 0)
    return dataclasses.replace(settings, rank=rank or None)


def run(settings: LearnerSettings) -> None:
    """Run a learner until SIGTERM or SIGINT; under torchrun, its part of one (see `learner.leading`).

    Raises `checkpoint.LearnerBusy` when another learner has the data folder, and `RankGone` when another
    process of this one ended by itself.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    settings = with_rank(settings)
    with Ranks.join() as ranks:
        if ranks.rank:  # signals are for rank 0, which says when to end
            follow(PPO(SharedModel.of(settings), settings.ppo, ranks=ranks))
        else:
            _lead(settings, ranks, stop)


def _lead(settings: LearnerSettings, ranks: Ranks, stop: threading.Event) -> None:
    """The learner itself, until it is told to stop; then the other ranks are told as well."""
    metrics = LearnerMetrics()
    start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    with checkpoint.exclusive(settings.data / "learner"):
        log = open_log(settings.data, settings.kafka, "learner")
        engine = EngineClient(settings.engine, thoughts=thoughts_of(Path(settings.model)))
        try:
            learner = Learner(
                settings,
                log,
                engine,
                Registry(settings.data / "adapters"),
                SharedModel.of(settings),
                metrics,
                ranks,
            )
            if learner.resume():
                logger.info("continuing from turn %d", learner.place.turn)
            while not stop.is_set():
                learner.turn(wait_seconds=1.0)
            learner.save()
            learner.memory.close()
            learner.ppo.dismiss()
        finally:
            engine.close()
            log.close()
