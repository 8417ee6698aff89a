"""Everyday conversations are many, of several kinds and cleanly split; a world follows from the model."""

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest

from hearken.demo import everyday
from hearken.demo.demo import load_persona
from hearken.demo.everyday import is_held_out, prompts, subject
from hearken.demo.worlds import EVERYDAY, SUPPORT_DESK, World, world_of
from hearken.models import tiny
from hearken.service import flags
from learner.sft.tiny import RECIPE_FILE


def test_conversations_are_many_and_the_seed_decides_them() -> None:
    assert len({json.dumps(conversation) for conversation in prompts(6000, 1)}) > 4000
    assert len({subject(conversation) for conversation in prompts(6000, 1)}) > 2000
    assert prompts(50, 1) == prompts(60, 1)[:50]
    assert prompts(50, 1) != prompts(50, 2)


def test_held_out_conversations_are_about_what_no_other_is() -> None:
    held_out = prompts(1000, 1, held_out=True)
    subjects = {subject(conversation) for conversation in held_out}
    assert len(subjects) > 200
    assert not subjects & {subject(c) for seed in (1, 2) for c in prompts(5000, seed)}
    assert all(is_held_out(conversation) for conversation in held_out)


def test_all_kinds_of_turns_occur_and_are_well_formed() -> None:
    conversations = prompts(2000, 3)
    shapes = Counter("".join(m["role"][0] for m in conversation) for conversation in conversations)
    assert shapes.keys() == {"uau", "suau", "uauau", "suauau"}
    assert min(shapes.values()) > 100
    for conversation in conversations:
        for message in conversation:
            assert message.keys() == {"role", "content"}
            assert message["content"].strip()
            assert "{" not in message["content"]


def test_every_template_can_be_filled() -> None:
    world = everyday._world()
    assert len({ask for topic in world["topics"] for ask in topic["asks"]}) > 150
    for topic in world["topics"]:
        assert topic["systems"]
        texts = topic["asks"] + [
            text for asked, answered, further in topic["talks"] for text in (asked, answered, *further)
        ]
        for text in texts:
            named = {match[1] for match in everyday._SLOT.finditer(text)}
            assert named <= world["lists"].keys(), text


def test_the_tiny_model_has_the_support_desk_and_others_have_everyday_life(tmp_path: Path) -> None:
    assert tiny.RECIPE_FILE == RECIPE_FILE
    assert world_of(tmp_path) is EVERYDAY
    (tmp_path / RECIPE_FILE).write_text("{}")
    assert world_of(tmp_path) is SUPPORT_DESK


@pytest.mark.parametrize("world", [EVERYDAY, SUPPORT_DESK], ids=lambda world: world.name)
def test_a_world_s_own_persona_is_shipped(world: World) -> None:
    assert load_persona(world.persona).name == world.persona


@pytest.mark.parametrize("world", [EVERYDAY, SUPPORT_DESK], ids=lambda world: world.name)
def test_a_world_s_pace_reaches_the_processes_that_it_is_told_to(world: World) -> None:
    parser = argparse.ArgumentParser()
    flags.add(parser, {})
    config = flags.configured(parser.parse_args(flags.written(world.service)), {})
    assert {path: config.get(path).value for path in world.service} == dict(world.service)
