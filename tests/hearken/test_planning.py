"""The plan of memory: counts that can be known exactly, and decisions that follow from it."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hearken.base.errors import UsageError
from hearken.machine.engine import EngineOptions, engine_command
from hearken.machine.fitting import Machine, TooLittle, Wish, decide, fit, fit_learner
from hearken.machine.hardware import free_ram_bytes, ram_bytes
from hearken.machine.loads import engine_load, learner_load
from hearken.machine.memory import (
    GIB,
    EngineLoad,
    LearnerLoad,
    engine_in_ram,
    engine_on_card,
    kept_bytes,
    learner_in_ram,
    learner_on_card,
    total,
)
from hearken.models import vllm_flags
from hearken.models.shape import Shape, shape_of, shape_of_config
from learner.settings import LearnerSettings


def qwen(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """A config of the Qwen2.5 family."""
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **more,
    }


HALF_B = qwen(896, 4864, 24, 14, 2)
SEVEN_B = qwen(3584, 18_944, 28, 28, 4, vocab_size=152_064, tie_word_embeddings=False)
LLAMA_8B = qwen(4096, 14_336, 32, 32, 8, vocab_size=128_256, tie_word_embeddings=False, model_type="llama")
QWEN3 = qwen(1024, 3072, 28, 16, 8, head_dim=128, model_type="qwen3")


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (HALF_B, 494_032_768),
        (SEVEN_B, 7_615_616_512),
        (LLAMA_8B, 8_030_261_248),
        (QWEN3, 596_049_920),
    ],
)
def test_parameters_are_those_that_their_makers_name(config: Mapping[str, Any], parameters: int) -> None:
    assert shape_of_config(dict(config)).parameters == parameters


def model(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]] | None = None
) -> Path:
    """A folder with a config, and weights of which only the header is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in (tensors or {}).items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def test_the_weights_themselves_say_how_many_there_are(tmp_path: Path) -> None:
    shape = shape_of(model(tmp_path, HALF_B, {"a": (7, 3), "b": (5,)}))
    assert shape.parameters == 26
    (tmp_path / "model.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged"):
        shape_of(tmp_path)


def test_the_tiny_model_is_counted_as_torch_counts_it(tiny_model: Path) -> None:
    from learner.model.shared import SharedModel

    shared, shape = SharedModel(str(tiny_model), rank=4), shape_of(tiny_model)
    assert (
        shape_of_config(json.loads((tiny_model / "config.json").read_text())).parameters == shape.parameters
    )
    assert shape.adapter(4) == shared.flat["policy"].weights.numel()
    assert (shape.hidden, shape.layers) == (shared.hidden_size, shared.layers)


def test_what_a_backward_pass_keeps_is_what_autograd_keeps(tmp_path: Path) -> None:
    """The table `KEPT` against hooks on the tensors that are saved, by transformers' way and by our own."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from learner.batching import make_batch
    from learner.model.shared import POLICY, SharedModel

    rows = [(list(range(1, 65)), list(range(65, 129)))] * 2

    def kept(layers: int, dtype: torch.dtype, packed: bool) -> int:
        config = Qwen2Config(
            hidden_size=128, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=256, num_hidden_layers=layers, eos_token_id=1,
        )  # fmt: skip
        Qwen2ForCausalLM(config).to(dtype).save_pretrained(tmp_path)
        shared = SharedModel(str(tmp_path), dtype=dtype, packed=packed, device="cpu")
        weights = {each.untyped_storage().data_ptr() for each in shared._peft.parameters()}
        found: dict[int, int] = {}
        held = []  # or a storage is freed, and its address used again

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held.append(tensor)
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            shared.predicting_states(make_batch(rows), POLICY)
        return sum(found.values())

    shape = shape_of_config(qwen(128, 512, 1, 4, 2, vocab_size=256))
    for dtype, packed, blocks in (
        (torch.bfloat16, False, "transformers"),
        (torch.float32, False, "transformers"),
        (torch.bfloat16, True, "packed"),
        (torch.float32, True, "packed"),
    ):
        counted = (kept(3, dtype, packed) - kept(1, dtype, packed)) / 2 / 256
        load = LearnerLoad(context=128, weight_bytes=dtype.itemsize, blocks=blocks)  # type: ignore[arg-type]
        assert kept_bytes(shape, load) == pytest.approx(counted, rel=0.05), blocks


def test_recomputing_is_planned_where_it_saves_something() -> None:
    settings = [
        LearnerSettings(Path("/d"), "m", "http://e", recompute=recompute) for recompute in (False, True)
    ]
    for on_card, native, share in ((True, False, (0, 0.3)), (False, False, (0, 0.3)), (False, True, (1, 1))):
        loads = [learner_load(each, HALF, 4096, on_card=on_card, native=native) for each in settings]
        whole, less = (kept_bytes(HALF, load) for load in loads)
        assert share[0] * whole <= less <= share[1] * whole, (on_card, native)


# ---- decisions

SEVEN = shape_of_config(SEVEN_B)
HALF = shape_of_config(HALF_B)
CARD = 24 * GIB


def wish(shape: Shape, **more: Any) -> Wish:
    engine, learner = EngineLoad(context=4096), LearnerLoad(context=4096)
    return Wish("some-model", shape, learner, engine, engine_on_card=True, **more)


def machine(*cards: int) -> Machine:
    return Machine(cards=cards, ram=None, learner_on_card=True)


def test_on_one_card_the_learner_gets_what_it_needs_and_vllm_the_rest() -> None:
    layout = decide(wish(HALF), machine(CARD))
    need = total(learner_on_card(HALF, LearnerLoad(context=4096)))
    assert layout.learner_card is None
    assert layout.engine_share is not None
    assert need + layout.engine_share * CARD <= 0.97 * CARD
    assert layout.engine_share * CARD >= total(engine_on_card(HALF, EngineLoad(context=4096), CARD))
    assert 0.97 * CARD - need - layout.engine_share * CARD < 0.02 * CARD  # nothing is left lying about


def test_what_the_user_says_of_the_share_holds_or_is_refused() -> None:
    assert decide(wish(HALF, share=0.5), machine(CARD)).engine_share == 0.5
    for share in (0.05, 0.95):  # too little for vLLM, and too little for the learner
        with pytest.raises(TooLittle):
            decide(wish(HALF, share=share), machine(CARD))


def test_a_spare_card_is_the_learners() -> None:
    assert decide(wish(HALF), machine(CARD, CARD)).learner_card == 1
    assert decide(wish(HALF, engines=2), machine(CARD, CARD)).learner_card is None
    two = EngineLoad(context=4096, cards=2)  # --tensor-parallel-size 2
    asked = dataclasses.replace(wish(HALF), engine=two)
    assert decide(asked, machine(CARD, CARD)).learner_card is None
    assert decide(asked, machine(CARD, CARD, CARD)).learner_card == 2


def test_a_model_that_is_too_large_is_refused_with_what_would_help() -> None:
    with pytest.raises(TooLittle) as refused:
        decide(wish(SEVEN), machine(CARD))
    said = str(refused.value)
    assert said.startswith("some-model in bfloat16 with 4,096 tokens of context needs about ")
    assert "this card has 24.0 GiB" in said
    for help_ in ("--set learner.recompute=true", "a second GPU", "a smaller model"):
        assert help_ in said
    assert "--max-loras" not in said  # would save next to nothing
    layout = decide(wish(SEVEN), machine(CARD, 80 * GIB))  # with a card of its own for the learner
    assert layout.learner_card == 1
    with pytest.raises(TooLittle, match="this card 92% may be used"):
        decide(wish(SEVEN), machine(12 * GIB, 80 * GIB))


def test_ram_is_planned_for_all_processes_together() -> None:
    asked = dataclasses.replace(
        wish(HALF),
        engine=EngineLoad(context=4096, weight_bytes=4),
        learner=LearnerLoad(context=2048, weight_bytes=4, blocks="packed"),
        engine_on_card=False,
        engines=2,
    )
    assert asked.engine is not None
    whole = 2 * total(engine_in_ram(HALF, asked.engine)) + total(learner_in_ram(HALF, asked.learner))
    decide(asked, Machine(ram=whole + GIB))
    with pytest.raises(TooLittle, match=r"2 engines .* GiB, learner .* this machine has"):
        decide(asked, Machine(ram=whole))
    decide(asked, Machine(ram=None))  # where it cannot be known


def test_one_chat_fits_into_the_cache_of_a_cpu_engine() -> None:
    load = EngineLoad(context=65_536, weight_bytes=4)
    asked = dataclasses.replace(wish(SEVEN), engine=load, engine_on_card=False)
    with pytest.raises(TooLittle, match=r"takes 7\.0 GiB of KV cache.*--max-model-len 9344"):
        decide(asked, Machine())


# ---- from command lines and files


def test_the_plan_reads_the_command_that_is_going_to_run() -> None:
    extra = ("--max-model-len=2K", "--tensor-parallel-size", "2", "--dtype", "float32")
    options = EngineOptions(model=Path("/m"), port=1, cuda=True, lora_rank=16, memory_share=0.61, extra=extra)
    command = engine_command(options)
    load = engine_load(command, HALF_B, cuda=True, kv_cache_gib=1)
    assert (load.context, load.rank, load.loras, load.kept_loras) == (2048, 16, 4, 16)
    assert (load.weight_bytes, load.cards) == (4, 2)
    assert vllm_flags.fraction(command, "--gpu-memory-utilization") == 0.61
    assert engine_load(command[:-2], HALF_B, cuda=True, kv_cache_gib=1).weight_bytes == 2  # auto


def settings(tmp_path: Path) -> LearnerSettings:
    return LearnerSettings(data=tmp_path, model="m", engine="http://127.0.0.1:1")


def test_too_little_memory_is_refused_warned_of_or_left_alone(tmp_path: Path) -> None:
    folder, said = model(tmp_path / "big", SEVEN_B, {"w": (7_615_616_512,)}), []
    command = engine_command(EngineOptions(model=folder, port=1, cuda=True))

    def ask(check: Any, small: Machine) -> object:
        return fit(
            folder, [command], settings(tmp_path), cuda=True, kv_cache_gib=1, check=check,
            say=said.append, machine=small,
        )  # fmt: skip

    with pytest.raises(
        UsageError, match=r"big in bfloat16 .* \(--memory-check warn starts all the same\)"
    ) as no:
        ask("refuse", machine(CARD))
    assert no.value.code == 2
    assert "\n" not in str(no.value)
    assert said == []
    ask("warn", machine(CARD))
    assert len(said) == 1
    assert said[0].startswith("warning: big in bfloat16")
    ask("off", machine(CARD))
    assert len(said) == 1
    with pytest.raises(UsageError, match="needs about"):
        fit_learner(
            folder, settings(tmp_path), 4096, check="refuse", say=said.append, machine=Machine(ram=GIB)
        )


def test_memory_that_others_have_for_now_is_only_told_of(tmp_path: Path) -> None:
    folder, said = model(tmp_path / "small", HALF_B, {"w": (494_032_768,)}), []
    busy = Machine(ram=64 * GIB, free_ram=GIB)
    fit_learner(folder, settings(tmp_path), 4096, check="refuse", say=said.append, machine=busy)
    assert len(said) == 1
    assert "only free now is 1.0 GiB" in said[0]


def test_a_model_of_unknown_shape_is_not_planned_and_that_is_said(tmp_path: Path) -> None:
    folder, said = model(tmp_path, {"model_type": "mamba"}), []
    command = engine_command(EngineOptions(model=folder, port=1, cuda=False))
    fit(
        folder, [command], settings(tmp_path), cuda=False, kv_cache_gib=1, check="refuse",
        say=said.append, machine=Machine(ram=1),
    )  # fmt: skip
    assert said == [
        "warning: memory is not planned: config.json does not say how large the model is: 'hidden_size'"
    ]


def test_memory_is_the_less_of_the_machines_and_the_containers(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  900 kB\nMemAvailable:   600 kB\n")
    assert ram_bytes(meminfo, cgroup) == 900 * 1024
    assert free_ram_bytes(meminfo, cgroup) == 600 * 1024
    cgroup.mkdir()
    for name, text in (("max", "400000"), ("current", "300000"), ("stat", "anon 5\ninactive_file 50000\n")):
        (cgroup / f"memory.{name}").write_text(text)
    assert ram_bytes(meminfo, cgroup) == 400_000
    assert free_ram_bytes(meminfo, cgroup) == 150_000
    (cgroup / "memory.max").write_text("max\n")
    assert free_ram_bytes(meminfo, cgroup) == 600 * 1024
    assert ram_bytes(tmp_path / "none", tmp_path / "none") is None
    assert ram_bytes() is not None
