"""What is wrong with a model is said in one line, from its small files alone, before anything is started."""

import json
from pathlib import Path

import pytest

from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.machine.engine import resolve_model
from hearken.models import vllm_flags
from hearken.models.checks import check_context
from hearken.models.shape import position_limit
from tests.servers import free_ports

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
TEMPLATE = {"chat_template": "{{ messages }}"}


def model(folder: Path, config: object = LLAMA, tokenizer: object = TEMPLATE) -> Path:
    """A folder that looks like a model's, with weights that nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, held in (("config.json", config), ("tokenizer_config.json", tokenizer), ("tokenizer.json", {})):
        (folder / name).write_text(held if isinstance(held, str) else json.dumps(held))
    (folder / "model.safetensors").touch()
    return folder


def refusal(folder: Path, **asked: bool) -> str:
    with pytest.raises(UsageError) as refused:
        resolve_model(str(folder), **asked)
    assert refused.value.code == 2
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_a_folder_without_a_chat_template(tmp_path: Path) -> None:
    folder = model(tmp_path, tokenizer={"eos_token": "</s>"})
    assert "has no chat template" in refusal(folder)
    assert resolve_model(str(folder), template=False) == folder.resolve()  # whoever writes no chats down
    (folder / "chat_template.jinja").write_text(" \n")
    assert "has no chat template" in refusal(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(str(folder)) == folder.resolve()


def test_a_chat_template_in_the_tokenizers_config(tmp_path: Path) -> None:
    assert resolve_model(str(model(tmp_path))) == tmp_path.resolve()
    several = {"chat_template": [{"name": "default", "template": "{{ messages }}"}]}
    assert resolve_model(str(model(tmp_path / "b", tokenizer=several))) == (tmp_path / "b").resolve()
    assert "tokenizer_config.json cannot be read" in refusal(model(tmp_path / "c", tokenizer="{"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ({"model_type": "cohere", "logit_scale": 0.0625}, "logit_scale is 0.0625"),
        ({"model_type": "cohere2"}, "logit_scale is its default"),
        ({"text_config": {"final_logit_softcapping": 30.0}}, "final_logit_softcapping is 30.0"),
    ],
)
def test_logits_that_are_changed_after_the_output_layer(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    line = refusal(model(tmp_path, LLAMA | changed))
    assert said in line
    assert "take a model that does not" in line


@pytest.mark.parametrize(
    "unchanged",
    [
        {"final_logit_softcapping": None},
        {"model_type": "granite", "logits_scaling": 1.0},
        {"model_type": "cohere", "logit_scale": 1},
        {"attn_logit_softcapping": 50.0},
    ],
)
def test_logits_that_are_left_as_they_are(tmp_path: Path, unchanged: dict[str, object]) -> None:
    assert resolve_model(str(model(tmp_path, LLAMA | unchanged))) == tmp_path.resolve()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, 'names no "model_type"'),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no causal"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "is no causal"),
        ({"model_type": "llama9"}, "the kind llama9; it needs a newer transformers"),
        ({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "code of its own, which is not run here"),
        ([], "holds no JSON object"),
        ("{", "config.json cannot be read"),
    ],
)
def test_models_that_are_no_chat_models(tmp_path: Path, config: object, said: str) -> None:
    assert said in refusal(model(tmp_path, config))


@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        ((), None),
        (("--max-model-len", "512"), 512),
        (("--max-model-len=2k", "--x"), 2000),
        (("--max_model_len", "2K"), 2048),
        (("--max-model-len", "1.5K"), 1536),
        (("--max-model-len", "auto"), None),
        (("--max-model-len", "512", "--max-model-len=64"), 64),
        (("--max-model-len",), None),
    ],
)
def test_a_context_is_read_as_vllm_reads_it(flags: tuple[str, ...], tokens: int | None) -> None:
    assert vllm_flags.number(flags, "--max-model-len") == tokens


def test_a_context_that_is_longer_than_the_models(tmp_path: Path) -> None:
    folder = model(tmp_path / "small")
    check_context(folder, ("--max-model-len", "2048"))
    with pytest.raises(UsageError, match=r"4000 is longer than small can read: 2048 tokens; pass at most"):
        check_context(folder, ("--max-model-len", "4k"))


def test_stretched_positions_count() -> None:
    stretched = {"max_position_embeddings": 32_768, "rope_scaling": {"factor": 4.0, "rope_type": "yarn"}}
    assert position_limit(stretched) == 32_768  # factor of what is not said
    stretched["rope_scaling"] = {"factor": 4.0, "original_max_position_embeddings": 32_768}
    assert position_limit(stretched) == 131_072


@pytest.mark.parametrize("command", ["up", "demo", "learner"])
def test_every_command_says_it_in_one_line(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(tmp_path / "scaled", LLAMA | {"logits_scaling": 8.0})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_bytes(b"s" * 32)
    learner = ["--engine", "http://127.0.0.1:1", "--metrics-port", str(free_ports(1))]
    more = learner if command == "learner" else ["--port", str(free_ports(4))]
    assert main([command, "--data", str(tmp_path / "data"), "--model", str(folder), *more]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hearken: ")]
    assert "logits_scaling is 8.0" in line
    assert not (tmp_path / "data" / "logs").exists()  # nothing was started


# ---- GGUF

WHOLE = b"GGUF\3\0\0\0"


def test_a_gguf_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    for held in (b"<!DOCTYPE html>", b"GGUF and so on", b"GGUF"):
        file.write_bytes(held)
        for path in (file, tmp_path):  # the file, and a folder with nothing else
            assert "is not a GGUF file" in refusal(path)
    file.rename(tmp_path / "model.bin")
    assert "is not a GGUF file" in refusal(tmp_path / "model.bin")


def test_which_gguf_is_meant(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).write_bytes(WHOLE)
    line = refusal(tmp_path)
    assert "several GGUF files" in line
    assert str(tmp_path / "q4.gguf") in line
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(WHOLE)
    assert "one of several parts" in refusal(part)


def test_a_folder_with_other_weights_keeps_them(tmp_path: Path) -> None:
    (model(tmp_path) / "q4.gguf").write_bytes(WHOLE)
    assert resolve_model(str(tmp_path)) == tmp_path.resolve()
