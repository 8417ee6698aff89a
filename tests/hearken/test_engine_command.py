"""The vLLM command line: what the rest of hearken relies on is in it."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from hearken.base.errors import UsageError
from hearken.machine.engine import (
    CPU_PLUGIN,
    LONGEST_CONTEXT,
    EngineOptions,
    context_length,
    engine_command,
    engine_environment,
    reasoning_parser,
    tool_parser,
)
from hearken.machine.huge_pages import with_huge_pages


def flags(command: list[str]) -> dict[str, str]:
    """Flag -> value; "" for a flag without one."""
    found: dict[str, str] = {}
    for i, word in enumerate(command):
        if word.startswith("--"):
            value = command[i + 1] if i + 1 < len(command) else ""
            found[word] = "" if value.startswith("--") else value
    return found


def test_on_a_cpu() -> None:
    options = EngineOptions(model=Path("/m"), port=8001, cuda=False, max_model_len=512, threads=3)
    command = engine_command(options)
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    given = flags(command)
    assert given["--model"] == "/m"
    assert given["--served-model-name"] == "base"
    assert given["--host"] == "127.0.0.1"
    assert given["--logprobs-mode"] == "processed_logprobs"
    assert given["--generation-config"] == "vllm"
    assert given["--scheduling-policy"] == "priority"
    assert "--enable-prompt-tokens-details" in given
    assert given["--max-model-len"] == "512"
    assert given["--dtype"] == "float32"
    assert given["--block-size"] == "32"
    env = engine_environment(options, {"PATH": "/bin", "OMP_NUM_THREADS": "64"})
    assert env["PATH"] == "/bin"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["TORCH_COMPILE_DISABLE"] == "1"
    assert env["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_functions_that_must_be_called_are_called_as_their_schemas_say() -> None:
    options = EngineOptions(
        model=Path("/m"), port=8001, cuda=False, tool_parser="mistral", extra=("--x", "1")
    )
    given = flags(engine_command(options))
    assert "--enable-auto-tool-choice" in given
    assert given["--tool-call-parser"] == "mistral"
    assert json.loads(given["--structured-outputs-config"])["disable_any_whitespace"] is True
    assert engine_environment(options, {})["VLLM_ENFORCE_STRICT_TOOL_CALLING"] == "0"
    assert engine_command(options)[-2:] == ["--x", "1"]  # the user's flags count, being the last


@pytest.mark.parametrize(
    ("file", "template", "parser"),
    [
        ("tokenizer_config.json", '"<tool_call>{..}</tool_call>"', "hermes"),
        ("chat_template.jinja", "<tool_call><function=name>", "qwen3_coder"),
        ("chat_template.jinja", "[TOOL_CALLS]", "mistral"),
        ("tokenizer_config.json", "<|python_tag|>", "llama3_json"),
        ("README.md", "[TOOL_CALLS]", "hermes"),
    ],
)
def test_the_parser_of_calls_follows_from_the_chat_template(
    tmp_path: Path, file: str, template: str, parser: str
) -> None:
    (tmp_path / file).write_text(template)
    assert tool_parser(tmp_path) == parser


def test_a_model_that_thinks_gets_its_parser_and_no_other_does(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<think> enable_thinking"}))
    assert reasoning_parser(tmp_path) == "qwen3"
    options = EngineOptions(model=tmp_path, port=8001, cuda=False, reasoning_parser="qwen3")
    assert flags(engine_command(options))["--reasoning-parser"] == "qwen3"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<tool_call>"}))
    assert reasoning_parser(tmp_path) is None
    assert "--reasoning-parser" not in engine_command(EngineOptions(model=tmp_path, port=8001, cuda=False))


def test_on_a_gpu() -> None:
    options = EngineOptions(model=Path("/m"), port=8001, cuda=True, extra=("--max-num-seqs", "64"))
    command = engine_command(options)
    given = flags(command)
    assert given["--dtype"] == "auto"
    assert "--block-size" not in given
    assert command[-2:] == ["--max-num-seqs", "64"]
    env = engine_environment(options, {})
    assert "TORCH_COMPILE_DISABLE" not in env
    assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 131072}, LONGEST_CONTEXT),
        ({"text_config": {"max_position_embeddings": 1024}}, 1024),
        ({}, LONGEST_CONTEXT),
    ],
)
def test_context_is_the_models_own_up_to_a_limit(
    config: dict[str, object], tokens: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == tokens


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        context_length(tmp_path)


def test_the_plugin_for_cpus_is_one_that_vllm_finds() -> None:
    [plugin] = importlib.metadata.entry_points(group="vllm.general_plugins", name=CPU_PLUGIN)
    assert plugin.value == "hearken.cpu_lora:register"


def test_what_malloc_was_told_already_stays() -> None:
    assert with_huge_pages({})["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    other = with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=3", "HOME": "/h"})
    assert other == {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.hugetlb=1", "HOME": "/h"}
    off = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(off) == off
