"""The parts of a learner, wired once. Each phase of its loop is given all of them and uses what it needs."""

import dataclasses
from collections import deque
from functools import partial
from typing import Any

from deploy.engines.client import EngineClient
from deploy.engines.lending import lender
from deploy.registry.registry import Registry
from feedback.core.events import BASE
from feedback.core.log import EventLog, Record
from feedback.joining.join import Answer, Joiner
from feedback.opening import open_sealer
from feedback.updates.steps import StepRecord
from feedback.updates.teaching import Hint
from feedback.updates.usage import Usage
from learner.loop.askable import Askable
from learner.loop.metrics import LearnerMetrics
from learner.model.ranks import Ranks
from learner.model.shared import LIVE, POLICY, READER, SharedModel
from learner.optimiser import Optimiser
from learner.optimisers import optimiser_of
from learner.policy.leading import lead
from learner.policy.scaling import scale_policy
from learner.policy.watching import Watch
from learner.reward.ages import Fading
from learner.reward.features import AnswerFeatures
from learner.reward.judge import JudgingModel
from learner.reward.ladder import RewardLadder
from learner.reward.reader import Reader
from learner.rollouts.sampling import Journal, RolloutSampler
from learner.settings import LearnerSettings
from learner.state.memory import Memory
from learner.state.stages import LearnerState, Limits
from learner.votes.labels import LabelStore
from learner.votes.meanings import read_meanings
from learner.votes.signals import AnswerTokenizer
from learner.votes.trust import Agreement, Standing
from learner.votes.turns import TurnDetector

FETCH_SECONDS = 5.0
"""How long a broker may need for the completions that votes are about."""


@dataclasses.dataclass
class Place:
    """How far the learner is in what it counts; all of it is in the checkpoint."""

    turn: int = 0  # counts checkpoints
    cursor: dict[str, int] = dataclasses.field(default_factory=dict)
    decided: int = 0  # the number of the newest decision that counts,
    fence: int = 0  # and the highest fence that was seen: `deploy.history.releases.Reached`
    live: str = BASE
    grew_from: str | None = BASE  # the version that the policy is trained on from; None where nobody knows
    base_digest: str = ""  # of the base that all else in the checkpoint is about; "" in those of before
    asked_base: str = ""  # which base the newest decision asks for; "" for any
    steps: int = 0  # of the optimiser, ever
    rollouts: int = 0  # batches ever
    rollout_tokens: int = 0  # the longest rollout, where batches with answers cut off raised it


class Parts:
    """The parts of one learner. Dependencies come wired; `state` changes through `learner.state.stages`
    alone."""

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
        lend = lender(registry, settings.engine, settings.fetch_port)
        self.sampler = RolloutSampler(engine, self.folder / "rollouts", lend)
        self.journal = Journal(self.folder / "sampled")
        self.askable = Askable(metrics)
        self.untrained = model.adapter_state(LIVE)  # changes nothing: the base
        self.place = Place()
        self.state = LearnerState()
        self.sealer = open_sealer(settings.data)
        self.memory = Memory(self.folder)
        fetch = partial(log.fetch, wait_seconds=FETCH_SECONDS)
        self.joins = self.memory.joins(fetch, self.sealer, settings.join_window)
        self.joiner = Joiner(sealer=self.sealer, joins=self.joins)
        self.joiner.refused = self._bury
        self._tokenize = AnswerTokenizer(settings.model)
        self.meanings = read_meanings(settings.signals)
        self.labels = LabelStore(settings.judge_share, settings.labels_kept, self._tokenize, self.meanings)
        reader = Reader(model, settings.reward) if READER in model.adapters else None
        self.features = AnswerFeatures(model, reader.score if reader else None)
        self.reward = RewardLadder(self.features, settings.reward, seed=settings.seed + 1, reader=reader)
        self.judge = JudgingModel(self.features, settings.reward, self.reward, seed=settings.seed + 2)
        self.fading = Fading(self.features, settings.reward, seed=settings.seed + 1)
        self.turns = TurnDetector(settings.reward.turn_alpha, settings.reward.turn_share)
        self.optimiser: Optimiser = lead(optimiser_of(model, settings, ranks))
        self.agreement = Agreement(self.memory.raters)
        self.standings: dict[str, Standing] = {}
        self.unreliable: frozenset[str] = frozenset()  # models whose votes weigh nothing
        self.untold: list[Usage] = []  # what reward updates used, to be told once they are in a checkpoint
        self.untold_steps: list[StepRecord] = []  # and what steps were like
        self.untold_hint: Hint | None = None  # what the newest update leaves to be asked; a crash may lose it
        self.accuracy: float | None = None  # of the reward model on votes kept back, at its newest fit
        self.watch = Watch(self.reward, self.judge, settings.pessimism, settings.self_check)
        self.earlier: list[Any] = []  # snapshots of the policy before its newest steps, newest last
        self.unread: deque[Answer] = deque()  # voted answers that the base has perhaps not read

    @property
    def limits(self) -> Limits:
        """When to do what."""
        return Limits.of(self.settings)

    @property
    def teaching(self) -> int:
        """How many of the votes that train the optimiser can learn from, without those of models that are no
        better than a coin."""
        none = self.unreliable
        return sum(vote.rater not in none and self.optimiser.teaches(vote) for vote in self.labels.training)

    @property
    def tokenizer(self) -> Any:
        """The base's, read when it is first asked for. Raises what reading it raises."""
        return self._tokenize.tokenizer

    def _bury(self, record: Record, reason: str) -> None:
        self.metrics.dead_letters.inc()
        self.log.bury("learner", record, reason)

    def tell_lost(self) -> None:
        """Tell of the votes that never can be joined."""
        for vote in self.joiner.lost:
            self.labels.lose(vote.event_id, vote.revision)
            self.metrics.votes_lost.inc()
        self.joiner.lost.clear()

    def take_scale(self, scale: float) -> None:
        """The policy is what is offered of it. Steps can be undone only where it is as they left it."""
        if scale != 1:
            scale_policy(self.model, scale)
            self.earlier = []

    def take_published(self, version: str) -> None:
        """The policy is a version that was published just before the learner was killed."""
        self.model.load_adapter(self.registry.path(version), POLICY)
        self.place.grew_from = version
        if self.registry.manifest(version).gate.scale != 1:
            self.earlier = []

    def go_back_to_live(self) -> None:
        """The policy becomes live's copy, and nothing of its way is left that would lead it there again."""
        self.model.copy_adapter(LIVE, POLICY)
        self.place.grew_from = self.place.live
        self.optimiser.start_anew()
        self.earlier = []
        self.watch.restart()
        self.place.rollout_tokens = 0
