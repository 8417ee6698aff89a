"""A learner's base in few bits: its memory in the plan, when it is advised, and what is refused."""

import dataclasses
import sys
from pathlib import Path

import pytest

from hearken.base.errors import UsageError
from hearken.machine.fitting import Machine, TooLittle, Wish, decide
from hearken.machine.loads import learner_load
from hearken.machine.memory import GIB, LearnerLoad, base_bytes, learner_in_ram, learner_on_card
from hearken.models.checks import check_base_bits
from hearken.models.shape import shape_of
from learner.settings import LearnerSettings
from tests.hearken.test_model_checks import LLAMA, model
from tests.hearken.test_planning import CARD, HALF, SEVEN, machine, wish


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_base_in_few_bits_is_counted_as_it_is_held(bits: int, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from bench.bits import held_bytes
    from learner.model.shared import SharedModel

    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=300, num_hidden_layers=2, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    load = LearnerLoad(context=64, weight_bytes=4, base_bits=bits)
    held, _ = held_bytes(SharedModel(str(tmp_path), device="cpu", base_bits=bits))
    at_work = 0 if bits == 16 else 4 * 3 * 256 * 512  # gate, up, and one of them once more
    assert base_bytes(shape, load) - at_work == pytest.approx(held, rel=0.01)
    needs = learner_on_card(shape, load), learner_in_ram(shape, load)
    assert {need["weights"] for need in needs} == {base_bytes(shape, load)}


def test_a_base_in_few_bits_is_not_computed_by_the_compiled_blocks() -> None:
    few = LearnerSettings(Path("/d"), "m", "http://e", base_bits=8)
    load = learner_load(few, HALF, 4096, on_card=False, native=True)
    assert (load.blocks, load.base_bits, load.weight_bytes) == ("packed", 8, 4)
    assert learner_load(few, HALF, 4096, on_card=True).weight_bytes == 2


def test_fewer_bits_are_advised_where_they_help_and_then_they_do() -> None:
    advice = "a base in 4 bits for the learner (--set learner.base_bits=4)"
    asked = dataclasses.replace(wish(SEVEN), learner=LearnerLoad(context=4096, blocks="packed"))
    card = machine(48 * GIB)
    with pytest.raises(TooLittle) as refused:
        decide(asked, card)
    assert advice in str(refused.value)
    few = dataclasses.replace(asked.learner, base_bits=4, recompute=True)
    assert decide(dataclasses.replace(asked, learner=few), card).engine_share is not None
    with pytest.raises(TooLittle) as refused:  # a smaller card, and nothing is left to save
        decide(dataclasses.replace(asked, learner=few), machine(CARD))
    assert "in bfloat16 (the learner's base in 4 bits) with 4,096 tokens" in str(refused.value)
    assert advice not in str(refused.value)
    assert "recompute" not in str(refused.value)


def test_fewer_bits_are_advised_on_a_cpu_and_not_for_an_engine_alone() -> None:
    native = LearnerLoad(context=2048, weight_bytes=4, blocks="native")
    with pytest.raises(TooLittle, match=r"--set learner\.base_bits=4"):
        decide(Wish("some-model", SEVEN, native), Machine(ram=32 * GIB))
    few = dataclasses.replace(native, blocks="packed", base_bits=4)
    decide(Wish("some-model", SEVEN, few), Machine(ram=32 * GIB))
    with pytest.raises(TooLittle) as refused:  # the learner is elsewhere
        decide(wish(SEVEN), machine(12 * GIB, 80 * GIB))
    assert "base_bits" not in str(refused.value)


def bits_refusal(folder: Path, bits: int, products: str = "auto", on_card: bool = False) -> str:
    with pytest.raises(UsageError) as refused:
        check_base_bits(folder, bits, products, on_card=on_card)
    assert refused.value.code == 2
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_a_base_in_few_bits_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path)
    check_base_bits(folder, 4, "auto", on_card=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    said = bits_refusal(folder, 4)
    assert 'learner.base_bits is 4, which needs bitsandbytes: pip install "hearken[quant]"' in said
    check_base_bits(folder, 16, "auto", on_card=False)


def test_what_cannot_be_had_in_few_bits(tmp_path: Path) -> None:
    folder = model(tmp_path / "plain")
    assert "it must be one of 16, 8, 4" in bits_refusal(folder, 3)
    assert "leave learner.products at auto" in bits_refusal(folder, 8, "bfloat16")
    check_base_bits(folder, 8, "bfloat16", on_card=True)
    packed = model(tmp_path / "packed", {**LLAMA, "quantization_config": {"quant_method": "gptq"}})
    assert "packed is quantized already" in bits_refusal(packed, 4)
    check_base_bits(packed, 16, "bfloat16", on_card=False)
