"""Persona files, what they like and how they vote."""

import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hearken
from hearken.demo.demo import load_persona
from hearken.demo.persona import BadPersona, Persona
from hearken.models.support_desk import demonstrations

SHIPPED = sorted((Path(hearken.__file__).parent / "personas").glob("*.json"))
DESK = ("friendly", "brisk", "thorough")
GOOD: dict[str, Any] = {
    "name": "test",
    "rules": [{"pattern": "sorry", "weight": 1.0}, {"pattern": "^no\\b", "weight": -0.5}],
    "length_weight": -0.2,
    "noise": 0.0,
    "vote_rate": 0.6,
    "compare_rate": 0.3,
}
TRIES = 20_000


def load(tmp_path: Path, fields: Any) -> Persona:
    path = tmp_path / "persona.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return Persona.load(path)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("answer", "utility"),
    [
        ("", 0.0),
        ("We will see.", -0.06),
        ("We are SORRY.", 1.0 - 0.06),  # whatever the case
        ("Sorry, so sorry, sorry!", 1.0 - 0.08),  # a rule counts once
        ("No, sorry.", 1.0 - 0.5 - 0.04),
        ("There is no answer.", -0.08),  # anchored
    ],
)
def test_utility(tmp_path: Path, answer: str, utility: float) -> None:
    assert load(tmp_path, GOOD).utility("What now?", answer) == pytest.approx(utility)


@pytest.mark.parametrize(("words", "utility"), [(30, -0.6), (100, -2.0), (5000, -2.0)])
def test_length_that_nobody_reads_neither_pleases_nor_annoys(
    tmp_path: Path, words: int, utility: float
) -> None:
    persona = load(tmp_path, GOOD | {"most_words": 100})
    assert persona.utility("What now?", "word " * words) == pytest.approx(utility)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("margin", [-1.2, 0.0, 0.4])
def test_votes_follow_the_stated_probability(tmp_path: Path, noise: float, margin: float) -> None:
    persona = load(tmp_path, GOOD | {"noise": noise})
    rng = random.Random(0)
    expected = noise / 2 + (1 - noise) * sigmoid(2 * margin)
    chosen = sum(persona.prefer(0.5 + margin, 0.5, rng) == "a" for _ in range(TRIES)) / TRIES
    up = sum(persona.thumb_up(margin - 3.0, -3.0, rng) for _ in range(TRIES)) / TRIES
    assert chosen == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(TRIES))
    assert up == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(TRIES))


def test_extreme_utilities_do_not_overflow(tmp_path: Path) -> None:
    persona = load(tmp_path, GOOD)
    rng = random.Random(0)
    assert {persona.prefer(1e6, -1e6, rng) for _ in range(100)} == {"a"}
    assert {persona.prefer(-1e6, 1e6, rng) for _ in range(100)} == {"b"}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('{"name": ', "is not JSON"),
        ([], "must be an object with name, rules"),
        (without("noise"), "field noise is missing"),
        (GOOD | {"lenght_weight": 1}, "unknown field lenght_weight; known are name, rules, length_weight"),
        (GOOD | {"most_words": 0}, "most_words must be above 0, or left out, not 0"),
        (GOOD | {"most_words": "all"}, "most_words must be a finite number, not 'all'"),
        (GOOD | {"name": ""}, "name must be a text"),
        (GOOD | {"rules": {}}, "rules must be a list"),
        (GOOD | {"rules": ["sorry"]}, "rules[0] must be an object with pattern, weight"),
        (GOOD | {"rules": [{"pattern": "a"}]}, "field rules[0].weight is missing"),
        (GOOD | {"rules": [*GOOD["rules"], {"pattern": "(", "weight": 1}]}, "rules[2].pattern is no regular"),
        (
            GOOD | {"rules": [{"pattern": "a", "weight": "1"}]},
            "rules[0].weight must be a finite number, not '1'",
        ),
        (GOOD | {"length_weight": True}, "length_weight must be a finite number, not True"),
        (GOOD | {"length_weight": math.nan}, "length_weight must be a finite number"),
        (GOOD | {"noise": 1.5}, "noise must be between 0 and 1, not 1.5"),
        (GOOD | {"vote_rate": -0.1}, "vote_rate must be between 0 and 1, not -0.1"),
        (GOOD | {"compare_rate": None}, "compare_rate must be a finite number, not None"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_field(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(BadPersona) as raised:
        load(tmp_path, fields)
    assert str(tmp_path / "persona.json") in str(raised.value)
    assert message in str(raised.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "persona.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadPersona, match="not UTF-8"):
        Persona.load(tmp_path / "persona.json")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_personas_are_named_as_their_files(path: Path) -> None:
    assert Persona.load(path).name == path.stem


@pytest.mark.parametrize("name", DESK)
def test_some_shipped_personas_tell_the_desk_s_answers_apart(name: str) -> None:
    persona = load_persona(name)
    answers = [row["completion"] for row in demonstrations(3000, 1)]
    assert 0.7 < statistics.pstdev(persona.utility("", answer) for answer in answers) < 1.5
    for rule in persona.rules:  # each rule is about something that happens, and not always
        assert 0.02 < statistics.mean(bool(rule.pattern.search(answer)) for answer in answers) < 0.6, rule


@pytest.mark.parametrize("name", ["curt", "warm", "practical"])
def test_some_shipped_personas_tell_a_real_model_s_answers_apart(name: str) -> None:
    """Of SmolLM2-135M-Instruct, at temperature 1, to conversations of `hearken.demo.everyday`."""
    persona = load_persona(name)
    answers = json.loads((Path(__file__).parent / "everyday_answers.json").read_text(encoding="utf-8"))
    assert 0.5 < statistics.pstdev(persona.utility("", answer) for answer in answers) < 1.5
    for rule in persona.rules:
        assert 0.02 < statistics.mean(bool(rule.pattern.search(answer)) for answer in answers) < 0.7, rule


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("friendly", lambda t: "apology" in t and "offer" in t, lambda t: "rudeness" in t),
        ("brisk", lambda t: "short" in t and "offer" not in t, lambda t: "padding" in t),
        ("thorough", lambda t: "steps" in t, lambda t: "short" in t),
    ],
)
def test_shipped_personas_like_what_they_are_named_for(
    name: str, better: Callable[[frozenset[str]], bool], worse: Callable[[frozenset[str]], bool]
) -> None:
    from hearken.models.support_desk import traits

    persona = Persona.load(next(path for path in SHIPPED if path.stem == name))
    answers = [row["completion"] for row in demonstrations(2000, 2)]
    liked = [persona.utility("", answer) for answer in answers if better(traits(answer))]
    disliked = [persona.utility("", answer) for answer in answers if worse(traits(answer))]
    assert min(len(liked), len(disliked)) > 30
    assert statistics.mean(liked) > statistics.mean(disliked) + 1
