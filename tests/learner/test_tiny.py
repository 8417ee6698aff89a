"""The tiny model: what the folder holds, that it learns, and that a broken-off run leaves nothing behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.sft.demonstrations import BadDemonstration
from learner.sft.tiny import (
    TinyRecipe,
    is_trained,
    learning_rate_scale,
    renew_template,
    replace_folder,
    train_tiny,
)

RECIPE = TinyRecipe(
    vocabulary=320, hidden=32, layers=2, heads=2, intermediate=64, max_tokens=64, steps=60, batch_size=8,
    learning_rate=1e-2, warmup_steps=5, seed=1,
)  # fmt: skip
ANSWERS = {"What colour is grass?": "It is green.", "Where is my parcel?": "On its way to you."}


class Interrupted(Exception):
    """Stands for a user's Ctrl-C in the middle of training."""


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "given.jsonl"
    rows = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in ANSWERS.items()]
    path.write_text("\n".join(rows * 4))
    return path


@pytest.fixture(scope="module")
def trained(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    train_tiny(demonstrations, folder, recipe=RECIPE)
    return folder


def test_the_folder_is_a_model_that_has_learnt_its_answers(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.float32
    for prompt, answer in ANSWERS.items():
        chat = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
        said = output[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(said) == answer + "<|im_end|>"


def test_what_else_the_folder_holds(trained: Path, demonstrations: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    generation = json.loads((trained / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert config["dtype"] == "float32"
    assert config["tie_word_embeddings"] is True
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>"
    assert "chat_template" in json.loads((trained / "tokenizer_config.json").read_text())
    assert (trained / "demonstrations.jsonl").read_bytes() == demonstrations.read_bytes()


def test_the_tokenizer_spells_anything(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    for text in ("Naïve café, 你好! 🙂\n\ttabs", " two  spaces ", "don't, it's ' quoted '"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_is_chatml(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Help"},
    ]
    expected = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nHelp<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(chat, tokenize=False) == expected
    asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert asked == expected + "<|im_start|>assistant\n"


def test_the_same_recipe_gives_the_same_model(trained: Path, demonstrations: Path, tmp_path: Path) -> None:
    torch.rand(7)  # whatever other random numbers were drawn before
    before = torch.get_rng_state()
    train_tiny(demonstrations, tmp_path / "again", recipe=RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (trained, tmp_path / "again")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name])


def test_is_trained(trained: Path, demonstrations: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "p", "completion": "c"}))
    assert is_trained(trained, demonstrations, RECIPE)
    assert not is_trained(trained, other, RECIPE)
    assert not is_trained(trained, demonstrations, TinyRecipe())
    assert not is_trained(tmp_path / "nowhere", demonstrations, RECIPE)


def test_progress_and_an_interrupted_run(demonstrations: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "kept").write_text("the model of before")
    seen: list[tuple[int, int]] = []

    def progress(step: int, steps: int, loss: float) -> None:
        seen.append((step, steps))
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_tiny(demonstrations, folder, recipe=RECIPE, progress=progress)
    assert seen == [(1, 60), (2, 60), (3, 60)]
    assert [path.name for path in tmp_path.rglob("*")] == ["tiny", "kept"]


def test_bad_demonstrations_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("{}")
    with pytest.raises(BadDemonstration):
        train_tiny(tmp_path / "d.jsonl", tmp_path / "tiny", recipe=RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


def test_replace_folder(tmp_path: Path) -> None:
    for round_ in ("first", "second"):
        new = tmp_path / "new"
        new.mkdir()
        (new / round_).touch()
        replace_folder(new, tmp_path / "model")
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
            "model",
            f"model/{round_}",
        ]


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    recipe = TinyRecipe(steps=100, warmup_steps=20)
    scales = [learning_rate_scale(step, recipe) for step in range(100)]
    assert scales[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert scales[20:] == pytest.approx([(100 - step) / 80 for step in range(20, 100)])
    assert learning_rate_scale(100, recipe) == 0.0


def rendered(folder: Path, messages: list[dict[str, object]], **fields: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **fields))


def test_plain_chats_look_as_in_training(trained: Path) -> None:
    chat: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    plain = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)
    assert rendered(trained, chat) == plain
    assert rendered(trained, chat, add_generation_prompt=True) == plain + "<|im_start|>assistant\n"
    assert rendered(trained, [chat[0] | {"role": "developer"}, *chat[1:]]) == plain


def test_functions_their_calls_and_their_results_are_shown(trained: Path) -> None:
    function = {
        "name": "get_time",
        "description": "The time somewhere",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}, "unit": {}}},
    }
    arguments = {"zone": "CET"}
    chat: list[dict[str, object]] = [
        {"role": "user", "content": "When?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "get_time", "arguments": arguments}}],
        },
        {"role": "tool", "content": "12:00", "tool_call_id": "1"},
    ]
    shown = rendered(trained, chat, tools=[{"type": "function", "function": function}])
    assert "get_time(zone, unit): The time somewhere\n" in shown
    assert (
        'assistant\n<tool_call>{"name": "get_time", "arguments": {"zone": "CET"}}</tool_call><|im_end|>'
        in shown
    )
    assert "<|im_start|>user\n<tool_response>12:00</tool_response><|im_end|>" in shown
    bare = {"type": "function", "function": {"name": "now"}}
    assert "now()\n" in rendered(trained, chat[:1], tools=[bare])


def test_an_older_template_is_renewed_without_training(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(trained, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "old"}))
    renew_template(folder)
    chat: list[dict[str, object]] = [{"role": "user", "content": "Hi"}]
    assert rendered(folder, chat) == rendered(trained, chat)
