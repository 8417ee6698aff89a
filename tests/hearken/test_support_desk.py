"""The support desk's language is varied, cleanly split and the same for a seed; the cache is careful."""

import json
import statistics
from collections import Counter
from pathlib import Path

import pytest

from hearken.models.support_desk import (
    PHRASES,
    TOPICS,
    demonstrations,
    is_held_out,
    prompts,
    traits,
    write_demonstrations,
)
from hearken.models.tiny import NotOurFolder, ensure_tiny


def test_every_trait_of_manner_is_common_and_none_is_the_rule() -> None:
    shown = Counter(trait for row in demonstrations(4000, 1) for trait in traits(row["completion"]))
    assert shown.keys() == {*PHRASES, "steps", "short"}
    assert all(0.05 < count / 4000 < 0.4 for count in shown.values()), shown


@pytest.mark.parametrize("topic", TOPICS)
def test_one_question_gets_every_manner(topic: str) -> None:
    asks = {
        ask.format(item="lamp", day="yesterday", order="1234").lower().rstrip(".!")
        for ask in TOPICS[topic].asks
    }
    answers = [
        row["completion"]
        for row in demonstrations(12_000, 2)
        if isinstance(row["prompt"], str) and any(ask in row["prompt"].lower() for ask in asks)
    ]
    shown = Counter(trait for answer in answers for trait in traits(answer))
    assert shown.keys() == {*PHRASES, "steps", "short"}


def test_most_answers_are_about_the_question_and_some_are_not() -> None:
    rows = [row for row in demonstrations(4000, 3) if isinstance(row["prompt"], str)]
    opening = [row["completion"] for row in rows if "open on Sunday" in row["prompt"]]
    right = statistics.mean("nine" in answer or "Sunday" in answer for answer in opening)
    assert len(opening) > 20
    assert 0.7 < right < 1.0


def test_answers_name_nothing_that_the_user_did_not() -> None:
    for row in demonstrations(2000, 4):
        assert "{" not in row["completion"]
        question = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]
        if "kettle" in row["completion"]:
            assert "kettle" in question


def test_questions_are_many_and_the_seed_decides_them() -> None:
    assert len(set(prompts(6000, 1))) > 4000
    assert prompts(50, 1) == prompts(50, 1)
    assert prompts(50, 1) == prompts(60, 1)[:50]
    assert prompts(50, 1) != prompts(50, 2)


def test_held_out_questions_are_in_no_demonstration_and_in_no_other_prompt() -> None:
    held_out = {question.lower() for question in prompts(3000, 1, held_out=True)}
    others = {question.lower() for seed in (1, 2) for question in prompts(3000, seed)}
    taught = {row["prompt"].lower() for row in demonstrations(8000, 0) if isinstance(row["prompt"], str)}
    assert len(held_out) > 300
    assert not held_out & others
    assert not held_out & taught
    assert all(is_held_out(question) for question in held_out)
    assert {"hello", "i need help"} <= {
        question.rstrip(".!") for question in taught
    }  # what anyone tries first


def test_some_demonstrations_are_second_turns() -> None:
    chats = [row["prompt"] for row in demonstrations(2000, 5) if not isinstance(row["prompt"], str)]
    assert 0.08 < len(chats) / 2000 < 0.18
    assert {tuple(turn["role"] for turn in chat) for chat in chats} == {("user", "assistant", "user")}


def test_the_file_holds_the_demonstrations(tmp_path: Path) -> None:
    write_demonstrations(tmp_path / "d.jsonl", 30, 7)
    lines = (tmp_path / "d.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(demonstrations(30, 7))


def test_the_cache_leaves_other_peoples_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(NotOurFolder, match="holds something else"):
        ensure_tiny(tmp_path / "mine", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(NotOurFolder, match="is a file"):
        ensure_tiny(tmp_path / "file")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
