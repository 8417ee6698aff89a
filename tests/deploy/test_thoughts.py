"""How a model thinks, by its chat template, and where its answer begins, by its tokens."""

import importlib.util
import json
from pathlib import Path

import pytest

from deploy.engines.thoughts import after_thought, answer_start, is_closed, thoughts_of, unfinished

ENDS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
OF_EARLIER_TURNS = "{% if '</think>' in content %}{{ '<think>' + reasoning + '</think>' }}{% endif %}"

THINKING = {
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>' }}{% endif %}" + ENDS: "qwen3",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}": "qwen3",
    "{{ '<｜Assistant｜>' + content.split('</think>')[-1] }}": "deepseek_r1",
    "{% if not thinking is defined %}..{{ '<｜Assistant｜></think>' }}": "deepseek_v3",
    "<|channel|>analysis<|message|>": "openai_gptoss",
    "[THINK]{{ thought }}[/THINK][TOOL_CALLS]": "mistral",
    "<seed:think></seed:think> enable_thinking": "seed_oss",
    "<|channel>thought\n<channel|> enable_thinking": "gemma4",
    "Write your thoughts after 'Here is my thought process:'": "granite",
    "<think></think><arg_key> enable_thinking": "glm45",
    "<minimax:tool_call><think>\n": "minimax_m2",
    "<|im_assistant|>assistant<|im_middle|><think>{{ rc }}</think>": "kimi_k2",
}


@pytest.mark.parametrize("template", THINKING)
def test_a_model_that_thinks_is_known_by_its_template(tmp_path: Path, template: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    found = thoughts_of(tmp_path)
    assert found is not None
    assert found.parser == THINKING[template]
    named = [{"name": "default", "template": "x"}, {"name": "other", "template": template}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert thoughts_of(tmp_path) == found
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text(template)
    assert thoughts_of(tmp_path) == found


@pytest.mark.parametrize("template", ["", ENDS, OF_EARLIER_TURNS + ENDS])
def test_a_model_that_does_not_think_has_no_parser(tmp_path: Path, template: str) -> None:
    assert thoughts_of(tmp_path) is None
    added = {"1": {"content": "<think>"}, "2": {"content": "[THINK]"}}
    config = {"added_tokens_decoder": added, "chat_template": template or None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert thoughts_of(tmp_path) is None


def test_the_parsers_are_ones_that_vllm_has() -> None:
    found = importlib.util.find_spec("vllm")  # importing it takes long
    assert found is not None
    assert found.origin is not None
    listed = (Path(found.origin).parent / "reasoning" / "__init__.py").read_text()
    assert [parser for parser in THINKING.values() if f'"{parser}": (' not in listed] == []


def test_an_answer_begins_behind_the_token_that_closes_the_thought() -> None:
    assert after_thought(["<think>", "a", "</think>", "\n\n", "b"]) == 3
    assert after_thought(["a", "</", "think", ">\n", "b"]) == 4  # marks that are several tokens
    assert after_thought(["</think>", "b", "</think>", "c"]) == 1
    assert after_thought(["a", "b"]) is None
    assert after_thought(["Here is my", " response", ": b", "c"]) == 3
    assert after_thought(["a", "[/THINK]", "</think>"], ("</think>",)) == 3


def test_where_no_mark_is_known_the_answers_words_tell() -> None:
    assert answer_start(["hm", "<END>", " ", "ye", "s", "</s>"], "hm", " yes") == 3
    assert answer_start(["hm", "hm"], "hmhm", "") == 2  # never ended
    assert answer_start(["a", "b"], "", "ab") == 0
    assert answer_start(["<think>", "</think>", "b"], "", "b") == 2


def test_whether_a_thought_is_open_follows_from_where_the_prompt_ends(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("<think> enable_thinking")
    qwen = thoughts_of(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("[THINK]")
    mistral = thoughts_of(tmp_path)
    assert qwen is not None
    assert mistral is not None
    assert unfinished(qwen, "assistant\n", "hm")
    assert not unfinished(qwen, "assistant\n<think>\n\n</think>\n\n", "yes")
    assert not unfinished(mistral, "[/INST]", "yes")
    assert unfinished(mistral, "[/INST]", "[THINK]hm")
    assert is_closed("<think>\n\n</think>\n\n")
    assert not is_closed("what is </think>?<|im_end|>\n<|im_start|>assistant\n")
