"""The compiled blocks against the ones in float32."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from learner.batching import Item, make_batch
from learner.model import native
from learner.model.shared import LIVE, POLICY, SharedModel
from tests.learner.conftest import need_fast_bf16
from tests.learner.test_batching import some_items
from tests.learner.test_blocks import KINDS, SIZES, saved
from tests.learner.test_model import disturb


@pytest.fixture(autouse=True, scope="module")
def fast_bf16() -> None:
    need_fast_bf16()


ITEMS: list[Item] = [
    *some_items(9, seed=4),
    ([1, 2, 3] * 9, [*range(30)]),  # of 57 tokens: a whole panel of columns is 64, with what is beside it 80
    ([7] * 63, [9]),
    ([5], [*range(63)]),
]


def states_gradient(model: SharedModel, groups: list[list[Item]]) -> Tensor:
    """From gradients of the states that are the same in every grouping: without the output layer, whose last
    bits depend on how many rows it has."""
    whole = model.flat[POLICY].zero_grad()
    for items in groups:
        draws = [torch.Generator().manual_seed(len(prompt)) for prompt, _ in items]
        fixed = [
            torch.randn(len(answer), model.hidden_size, generator=draw)
            for draw, (_, answer) in zip(draws, items, strict=True)
        ]
        (model.predicting_states(make_batch(items), POLICY) * torch.cat(fixed)).sum().backward()
    return whole.clone()


def gradient(model: SharedModel, groups: list[list[Item]]) -> Tensor:
    whole = model.flat[POLICY].zero_grad()
    for group in groups:
        batch = make_batch(group)
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        (logprobs * torch.linspace(0.5, 1.5, len(logprobs))).sum().backward()
    return whole.clone()


@pytest.fixture(params=[(kind, rank) for kind in KINDS for rank in (4, 5, 12)], scope="module", ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model twice, with the same disturbed adapters: compiled, and in float32."""
    kind, rank = request.param
    folder = saved(tmp_path_factory.mktemp("kind"), KINDS[kind])
    pair = [SharedModel(folder, rank=rank, device="cpu", bf16_products=native) for native in (True, False)]
    assert [model.is_native for model in pair] == [True, False]
    for model in pair:
        disturb(model, POLICY, 1)
        disturb(model, LIVE, 2)
    return pair


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("adapter", [None, POLICY, LIVE])
@pytest.mark.parametrize("layers", [None, 0, 1, 3])
def test_states_are_those_of_float32(pair: Any, adapter: str | None, layers: int | None) -> None:
    """Apart by what rounding factors to 8 bits does, as far as a wrong term would not be; and without a block
    not at all."""
    batch = make_batch(ITEMS)
    with torch.no_grad():
        if layers is None:
            one, two = (model.predicting_states(batch, adapter) for model in pair)
        else:
            one, two = (model.hidden(batch, adapter, layers).flatten(0, 1)[batch.real] for model in pair)
    apart = float((one - two).norm() / two.norm())
    assert apart == 0 if layers == 0 else 0 < apart < 0.05


def test_gradients_are_those_of_float32(pair: Any) -> None:
    """Of every single matrix."""
    for model in pair:
        gradient(model, [ITEMS])
    named = [dict(zip(m.adapter_state(POLICY), m.parameters(POLICY), strict=True)) for m in pair]
    for name in named[0]:
        one, two = (names[name].grad.flatten() for names in named)
        assert bool(two.any())
        assert float(cosine_similarity(one, two, dim=0)) > 0.99, name
        assert float(one.norm() / two.norm()) == pytest.approx(1, abs=0.05), name


def test_a_batch_is_the_sum_of_its_items(pair: Any) -> None:
    """A row's states are the same bits in any company; gradients differ by the order of sums."""
    model = pair[0]
    batch = make_batch(ITEMS)
    with torch.no_grad():
        whole = model.hidden(batch, POLICY)
        for row, (prompt, answer) in enumerate(ITEMS):
            alone = model.hidden(make_batch([(prompt, answer)]), POLICY)[0]
            assert torch.equal(whole[row, : len(prompt) + len(answer)], alone)
    some = [item for item in ITEMS if item[1]]
    together, apart = (states_gradient(model, group) for group in ([some], [[item] for item in some]))
    assert float((together - apart).norm()) < 1e-5 * float(together.norm())


def test_the_number_of_threads_changes_no_state(pair: Any) -> None:
    model, found, gradients = pair[0], [], []
    batch = make_batch(ITEMS)
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        with torch.no_grad():
            found.append(model.predicting_states(batch, POLICY))
        gradients += [states_gradient(model, [ITEMS]) for _ in range(2)]
        assert torch.equal(gradients[-1], gradients[-2])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert float((gradients[0] - gradients[-1]).norm()) < 1e-5 * float(gradients[0].norm())


def test_an_adapter_is_read_anew_in_every_pass(pair: Any) -> None:
    model = pair[0]
    before = model.adapter_state(POLICY)
    first = model.answer_logprobs(ITEMS, POLICY)
    disturb(model, POLICY, 3)
    assert not torch.equal(model.answer_logprobs(ITEMS, POLICY), first)
    model.load_adapter_state(POLICY, before)
    assert torch.equal(model.answer_logprobs(ITEMS, POLICY), first)


def test_exact_passes_are_in_float32(pair: Any) -> None:
    one, two = (model.answer_logprobs(ITEMS, POLICY, exact=True) for model in pair)
    assert torch.equal(one, two)


def test_a_fresh_policy_is_the_base_bit_for_bit(tiny_model: Path) -> None:
    model = SharedModel(str(tiny_model), device="cpu", bf16_products=True)
    assert model.is_native
    assert torch.equal(model.answer_logprobs(ITEMS, POLICY), model.answer_logprobs(ITEMS, None))


def test_what_bfloat16_costs(tiny_model: Path) -> None:
    """On the model that the project trains a token's logprob moves by a hundredth of a nat or two on average,
    the mean KL by a few percent, and the gradient keeps its direction. The bounds leave room for the model
    that another machine trains."""
    items = [([1, *range(20 + i, 30 + i), 2, 1], list(range(40 + i, 60 + i))) for i in range(16)]
    kl, logprobs, gradients = [], [], []
    for rough in (True, False):
        model = SharedModel(str(tiny_model), device="cpu", bf16_products=rough)
        disturb(model, POLICY, 1)
        logprobs.append(model.answer_logprobs(items, POLICY))
        kl.append(float((logprobs[-1] - model.answer_logprobs(items, None)).sum(1).mean()))
        gradients.append(gradient(model, [items]))
    assert 0 < float((logprobs[0] - logprobs[1]).abs().mean()) < 0.08
    assert kl[0] == pytest.approx(kl[1], rel=0.1, abs=0.25)
    assert float(cosine_similarity(*gradients, dim=0)) > 0.99


def test_rows_of_many_panels_are_attended_to(tiny_model: Path) -> None:
    items = [([*range(20, 420)], [*range(30, 60)]), ([*range(500, 700)], [*range(100, 130)])]
    found, gradients = [], []
    for rough in (True, False):
        model = SharedModel(str(tiny_model), device="cpu", bf16_products=rough)
        disturb(model, POLICY, 1)
        with torch.no_grad():
            found.append(model.predicting_states(make_batch(items), POLICY))
        gradients.append(gradient(model, [items]))
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.05
    assert float(cosine_similarity(*gradients, dim=0)) > 0.99


def test_tokens_that_are_not_in_the_vocabulary_are_refused(pair: Any) -> None:
    with pytest.raises(IndexError, match="tokens are not all from 0 to 63"):
        pair[0].answer_logprobs([([64], [1])], POLICY)


def test_other_sizes_stay_in_float32(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    odd = SIZES | {"hidden_size": 48}
    folder = saved(tmp_path, lambda: LlamaForCausalLM(LlamaConfig(**odd, num_key_value_heads=2)))
    model = SharedModel(folder, device="cpu", bf16_products=True)
    assert model.is_packed
    assert not model.is_native


PROGRAM = """
import logging, sys
logging.basicConfig(stream=sys.stdout)
import torch
from learner.model.shared import SharedModel
from learner.settings import LearnerSettings
settings = LearnerSettings(model=sys.argv[1], products=sys.argv[2], data="", engine="")
print(SharedModel.of(settings).is_native)
"""


BROKEN = "#!/bin/sh\necho no such flag >&2; exit 1\n"


@pytest.mark.parametrize("compiler", ["", BROKEN], ids=["none", "broken"])
def test_without_a_compiler_auto_stays_in_float32(compiler: str, tiny_model: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    if compiler:
        (tools / "c++").write_text(compiler)
        (tools / "c++").chmod(0o755)
    env = os.environ | {"PATH": str(tools), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(products: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tiny_model), products]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    auto = run("auto")
    assert auto.stdout.splitlines()[-1] == "False", auto.stderr
    assert ("no such flag" if compiler else "no C++ compiler") in auto.stdout
    asked = run("bfloat16")
    assert asked.returncode != 0
    assert "need a processor with AVX512-BF16 and a C++ compiler" in asked.stderr


def test_it_is_compiled_once(tmp_path: Path) -> None:
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    program = "import torch; from learner.model import native; assert native.library()"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=env, check=True)
        (file,) = (tmp_path / "hearken" / "native").iterdir()
        made = file.stat().st_mtime_ns
        assert file.suffix == ".so"
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
    assert file.stat().st_mtime_ns == made
    assert native.library() is not None
