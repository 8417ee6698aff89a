"""What the learner does with thoughts: it trains them, but votes and scores are about the answers."""

import dataclasses
import math

import pytest
import torch

from deploy.engines.client import Sample
from feedback.joining.labels import Answer, Label
from learner.model.ranks import Ranks
from learner.model.shared import SharedModel
from learner.policy.candidate import compare
from learner.reward.features import STATES, WORDS, AnswerFeatures, Kind
from learner.rollouts.measuring import measure
from learner.votes.labels import LabelStore, judges
from tests.learner.votes import PROMPT, answer, vote

THOUGHT, SAID = (20, 21, 22, 23), (30, 31, 2)


def thoughtful(name: str = "c1") -> Answer:
    return dataclasses.replace(answer((*THOUGHT, *SAID), name), answer_start=len(THOUGHT))


@pytest.mark.parametrize("kind", [WORDS, STATES], ids=lambda kind: kind.name)
def test_features_are_of_the_answer_in_the_context_of_its_thought(random_model: str, kind: Kind) -> None:
    features = AnswerFeatures(SharedModel(random_model))
    (seen,) = features.of_answers([thoughtful()], kind)
    (wanted,) = features.of_items([((*PROMPT, *THOUGHT), SAID)], kind)
    torch.testing.assert_close(seen, wanted)
    columns = features.columns(kind)
    assert math.isclose(float(seen[columns["length"]]), math.log1p(len(SAID)), rel_tol=1e-3)
    (otherwise,) = features.of_items([(PROMPT, SAID)], kind)
    assert not torch.allclose(seen, otherwise)  # the thought is read
    if kind is WORDS:
        assert seen[columns["tokens"]].nonzero().flatten().tolist() == sorted(SAID)


@pytest.mark.parametrize("kind", [WORDS, STATES], ids=lambda kind: kind.name)
def test_an_answer_that_never_came_has_the_features_of_nothing(random_model: str, kind: Kind) -> None:
    features = AnswerFeatures(SharedModel(random_model))
    never = dataclasses.replace(thoughtful(), answer_start=len(THOUGHT) + len(SAID))
    for company in ([never], [never, thoughtful("c2")]):
        assert not features.of_answers(company, kind)[0].any()
        features.forget()


def test_rollouts_are_trained_on_whole_and_scored_by_their_answers(random_model: str) -> None:
    rollouts = [
        Sample(list(PROMPT), [*THOUGHT, *SAID], [-1.0] * 7, "", "stop", answer_start=4),
        Sample(list(PROMPT), [20, 2], [-1.0] * 2, "", "stop", answer_start=2),  # ended within its thought
        Sample(list(PROMPT), [30, 2], [-1.0] * 2, "", "stop"),
    ]
    measured = measure(SharedModel(random_model), Ranks(), rollouts)
    assert [list(response) for _, response in measured.items] == [[*THOUGHT, *SAID], [20, 2], [30, 2]]
    assert measured.mask.sum(1).tolist() == [7, 2, 2]
    assert measured.judged == [
        ([*PROMPT, *THOUGHT], list(SAID)),
        ([*PROMPT, 20, 2], []),
        (list(PROMPT), [30, 2]),
    ]
    assert [rollout.judged for rollout in rollouts] == measured.judged
    assert measured.cut_off.tolist() == [False, True, False]
    assert math.isclose(measured.response_tokens, 11 / 3, rel_tol=1e-6)
    assert math.isclose(measured.answer_tokens, 5 / 3, rel_tol=1e-6)
    scores = torch.zeros(3), torch.zeros(3)
    numbers = compare(rollouts, rollouts[2:], scores, (0.0, 0.0), (0.0, 0.0), (1.0, 1.0))
    assert (numbers.response_tokens, numbers.response_tokens_live) == (5 / 3, 2)


def corrected(about: Answer) -> list[Label]:
    rater = next(f"r{i}" for i in range(100) if not judges(f"r{i}", 0.25))
    labels = LabelStore(0.25, tokenize=lambda text: (40, 41, 2))
    labels.add([vote("correction", "fb-1", 0.5, (about,), rater, text="Better.")])
    assert len(labels.training) == 1
    assert labels.demonstrations == ([((*PROMPT, *THOUGHT), (40, 41, 2))] if about.judged[1] else [])
    return labels.training


def test_a_correction_is_of_the_answer_and_not_of_the_thought() -> None:
    (signal,) = corrected(thoughtful())
    written, original = signal.answers
    assert written.judged == ((*PROMPT, *THOUGHT), (40, 41, 2))
    assert original.judged == ((*PROMPT, *THOUGHT), SAID)


def test_nobody_imitates_an_answer_in_the_middle_of_a_thought() -> None:
    never = dataclasses.replace(thoughtful(), answer_start=len(THOUGHT) + len(SAID))
    corrected(never)  # teaches the reward model, and is no demonstration
