"""What reward models see of answers, against the states that it is made of."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench._shapes import make_random_model
from learner.batching import Batch, Item, make_batch
from learner.model.shared import SharedModel
from learner.reward.features import PREFIXES, READ, STATES, WORDS, AnswerFeatures, Kind, prefix_ends
from tests.learner.conftest import need_fast_bf16
from tests.learner.votes import answer

ITEMS: list[Item] = [((3, 4, 5), (7, 8, 9, 2)), ((3, 4), (7, 7, 2)), ((6, 5, 4, 3), ()), ((9,), (30,))]


@pytest.mark.parametrize("how", ["packed", "transformers", "native"])
def test_states_of_several_layers_come_from_one_pass(random_model: str, how: str) -> None:
    if how == "native":
        need_fast_bf16()
    model = SharedModel(
        random_model, device="cpu", packed=how != "transformers", bf16_products=how == "native"
    )
    batch = make_batch(ITEMS)
    found = model.layer_states(batch, [1], batch.answers)
    whole = model.hidden(batch, None, 1).flatten(0, 1)[batch.predicting + 1]
    assert found.shape == (1, 8, model.hidden_size)
    assert torch.allclose(found[0], whole, atol=1e-6)
    last = model.hidden(batch, None).flatten(0, 1)[batch.predicting + 1]
    assert torch.allclose(model.answer_states(batch, None), last, atol=1e-6)


def test_native_states_are_those_of_a_pass_for_each_layer(random_model: str) -> None:
    need_fast_bf16()
    model = SharedModel(random_model, device="cpu", bf16_products=True)
    batch = make_batch(ITEMS)
    found = model.layer_states(batch, [0, 1, 2], batch.answers)
    for count, states in enumerate(found):
        whole = model.hidden(batch, None, count).flatten(0, 1)[batch.predicting + 1]
        assert torch.equal(states, whole), f"after {count} layers"


def test_an_answers_features_are_what_its_tokens_and_states_say(random_model: str) -> None:
    model = SharedModel(random_model, device="cpu")
    features = AnswerFeatures(model)
    found = features.of_items(ITEMS, STATES)
    columns = features.columns(STATES)
    for row, (prompt, tokens) in enumerate(ITEMS):
        states = model.hidden(make_batch([(prompt, tokens)]), None, 1)[0, len(prompt) :]
        length = float(torch.tensor(len(tokens)).log1p())
        assert float(found[row, columns["length"]]) == pytest.approx(length, rel=1e-3)
        wanted = (states.mean(0), states[-1]) if tokens else 2 * (torch.zeros(model.hidden_size),)
        for name, value in zip(("means", "lasts"), wanted, strict=True):
            assert torch.allclose(found[row, columns[name]], value, atol=1e-3, rtol=1e-3), (row, name)
    words, places = features.of_items(ITEMS, WORDS), features.columns(WORDS)
    for row, (_, tokens) in enumerate(ITEMS):
        assert set(words[row, places["tokens"]].nonzero().flatten().tolist()) == set(tokens)
    sums = words[:, places["middle"]]
    means = found[:, columns["means"]]
    assert torch.allclose(sums, means * torch.tensor([[4.0], [3.0], [0.0], [1.0]]), atol=2e-2)


class Watched(SharedModel):
    """Remembers after how many layers its states were asked for."""

    def layer_states(self, batch: Batch, layers: Sequence[int], wanted: Tensor) -> Tensor:
        self.asked = list(layers)
        return super().layer_states(batch, layers, wanted)


def test_the_base_is_passed_only_as_far_as_a_kind_looks(tmp_path: Path) -> None:
    make_random_model(tmp_path, layers=10)
    model = Watched(str(tmp_path), device="cpu")
    features = AnswerFeatures(model)
    voted = [answer((7, 8, 2), "a"), answer((9, 2), "b")]
    for kind, layers in ((STATES, [1, 3, 5, 7, 9]), (WORDS, [1, 3, 5])):
        found = features.of_items([each.judged for each in voted], kind)
        assert model.asked == layers
        assert torch.equal(found, AnswerFeatures(model).of_answers(voted, kind))  # read for every kind
    model.asked = []
    features.of_items([each.judged for each in voted], Kind("short", {"length": 1.0}))
    assert not model.asked


@pytest.mark.parametrize("kind", [WORDS, STATES], ids=lambda kind: kind.name)
def test_prefixes_have_the_features_that_they_have_as_answers(random_model: str, kind: Kind) -> None:
    features = AnswerFeatures(SharedModel(random_model, device="cpu"))
    long = [7 + i % 50 for i in range(2 * PREFIXES + 5)]
    items = [*ITEMS, ((3, 4, 5), long)]
    found = dict(features.of_prefixes(items, kind))
    assert sorted(found) == [*range(len(items))]
    for row, (prompt, tokens) in enumerate(items):
        ends = prefix_ends(len(tokens))
        assert ends[-1] == len(tokens)
        assert len(set(ends)) == len(ends) <= PREFIXES
        alone = features.of_items([(prompt, tokens[:end]) for end in ends], kind)
        assert torch.allclose(found[row], alone, atol=2e-2, rtol=2e-3)
    whole = torch.stack([found[row][-1] for row in range(len(items))])
    assert torch.equal(whole, features.of_items(items, kind))  # to the last bit, as the two are compared


def test_what_the_reader_says_is_remembered_until_it_has_learned(random_model: str) -> None:
    asked: list[int] = []

    def reader(items: list[Item]) -> torch.Tensor:
        asked.append(len(items))
        return torch.full((len(items),), float(len(asked)))

    features = AnswerFeatures(SharedModel(random_model, device="cpu"), reader)
    answers = [answer((7, 2), "a"), answer((8, 2), "b")]
    column = features.columns(READ)["reader"]
    assert features.of_answers(answers, READ)[:, column].unique().tolist() == [1.0]
    other = AnswerFeatures(features._model, reader)
    other.restore(features.state())
    assert torch.equal(other.of_answers(answers, READ), features.of_answers(answers, READ))
    assert asked == [2]
    features.forget_scores()
    assert features.of_answers(answers, READ)[:, column].unique().tolist() == [2.0]


def test_what_was_remembered_in_another_shape_is_computed_again(random_model: str) -> None:
    features = AnswerFeatures(SharedModel(random_model, device="cpu"))
    before = features.of_answers([answer((7, 2), "a")], STATES)
    features.restore({"keys": ["old"], "dense": torch.zeros(1, 3)})
    assert torch.equal(features.of_answers([answer((7, 2), "a")], STATES), before)
