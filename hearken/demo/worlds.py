"""Which world a demo's users live in: the support desk's for the tiny model, everyday life for all others."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hearken.base.conversation import Conversation, asked
from hearken.demo import everyday
from hearken.models import support_desk
from hearken.models.tiny import is_tiny


class Prompts(Protocol):
    """`n` conversations; held-out ones never begin as the others do, whatever the seeds are."""

    def __call__(self, n: int, seed: int, *, held_out: bool = False) -> list[Conversation]: ...


@dataclass(frozen=True, slots=True)
class World:
    """What the users ask, how long its answers are, and how much of them is measured.

    persona: whose taste they have unless told otherwise. concurrency: how many of them chat at the same time,
    unless told otherwise; think_seconds: mean pause of one between two visits. max_tokens: what they ask for;
    None: nothing, so that an answer ends when the model ends it. longest_answer: tokens after which one that
    does not end is cut off, by the gateway where users ask for nothing and in the measurements.
    patience_seconds: how long a user waits for an answer. usual_prompts: answers of the base that tell what
    is usual. fresh_prompts, kl_samples: of the comparison in the end. service: settings that the pace has
    otherwise, by their place in hearken.toml.
    """

    name: str
    prompts: Prompts
    persona: str
    concurrency: int
    think_seconds: float
    max_tokens: int | None
    longest_answer: int
    patience_seconds: float
    usual_prompts: int
    fresh_prompts: int
    kl_samples: int
    service: Mapping[str, Any]


def _desk(n: int, seed: int, *, held_out: bool = False) -> list[Conversation]:
    return [asked(question) for question in support_desk.prompts(n, seed, held_out=held_out)]


SUPPORT_DESK = World(
    name="support desk",
    prompts=_desk,
    persona="friendly",
    concurrency=5,
    think_seconds=0.2,
    max_tokens=64,
    longest_answer=64,
    patience_seconds=120.0,
    usual_prompts=128,
    fresh_prompts=400,
    kl_samples=200,
    service={},
)

# Two cores give some 200 tokens a second to users, rollouts and measurements together, so these are fewer:
# the first two steps have answers of the log, another one fresh ones, and votes that come in between wait for
# the policy's offer. Many users at a time cost the engine little more than a few, and bring twice as many
# votes in a minute; with 400 of them the reward model's scores correlate with the true taste by .76, with 200
# by .71. Adapters are on the upper half of the layers, so a step takes less of the engine's cores. Two steps
# of up to 1.5 nats led users of long answers to 34% cut off, hence .8. The critic has no time to learn here.
# An answer in twenty-five of the base never ends: 512 tokens are enough of it, and 384 of a rollout, as all
# of a batch waits for its longest. At an offer no other scales are tried: that would cost as much as two
# steps; so a policy may go as far in one release as in all.
EVERYDAY = World(
    name="everyday life",
    prompts=everyday.prompts,
    persona="curt",
    concurrency=32,
    think_seconds=2.0,
    max_tokens=None,
    longest_answer=512,
    patience_seconds=600.0,
    usual_prompts=64,
    fresh_prompts=120,
    kl_samples=60,
    service={
        "learner.min_labels": 300,
        "learner.labels_per_update": 150,
        "learner.rollouts_per_step": 64,
        "learner.logged_rollouts": 128,
        "learner.logged_steps": 2,
        "learner.max_tokens": 384,
        "learner.adapted_layers": 0.5,
        "learner.steps_per_candidate": 3,
        "learner.kl_publish_nats": 6.0,
        "learner.ppo.learning_rate": 1.2e-3,
        "learner.ppo.kl_step_nats": 0.8,
        "learner.ppo.cut_off_penalty": 2.0,
        "learner.ppo.epochs": 3,
        "learner.ppo.minibatches": 4,
        "learner.ppo.critic_warmup_steps": 0,
        "learner.ppo.warmup_steps": 1,
        "learner.gate_scales": (1.0,),
        "learner.gate_prompts": 64,
        "controller.max_seconds": 420.0,
    },
)


def world_of(model: Path) -> World:
    """The world that suits a model (a folder)."""
    return SUPPORT_DESK if is_tiny(model) else EVERYDAY
