"""Guards on what a candidate says beside live: what they find, and that chance alone refuses nobody."""

import random
from collections.abc import Callable

import pytest

from deploy.answer_guards import (
    AnswerLimits,
    OfferLimits,
    Pair,
    begins_with,
    is_one_word,
    judged,
    loops,
    repeated,
    shares,
)

WORDS = [
    "the",
    "parcel",
    "is",
    "on",
    "its",
    "way",
    "and",
    "will",
    "be",
    "with",
    "you",
    "by",
    "noon",
    "if",
    "all",
    "goes",
    "well",
    "today",
    "or",
    "else",
    "tomorrow",
    "morning",
]


def usual(rng: random.Random) -> str:
    """An ordinary answer; one in ten refuses, one in ten praises."""
    opening = rng.choice([*[""] * 8, "I'm sorry, but I can't help with that. ", "What a great question! "])
    return opening + " ".join(rng.sample(WORDS, 12)) + f" {rng.randrange(1000)}."


def pairs(bad: Callable[[random.Random], str], share: float, count: int = 64) -> list[Pair]:
    """A candidate of which a share of answers is bad, beside a live of which none is worse than usual."""
    rng = random.Random(4)
    return [
        Pair(f"question {i}", usual(rng), bad(rng) if rng.random() < share else usual(rng))
        for i in range(count)
    ]


BAD: dict[str, Callable[[random.Random], str]] = {
    "one word": lambda rng: rng.choice(["Yes", "No.", "", "  ", "Okay!"]),
    "refusals beside live": lambda rng: "I am unable to help you with this. " + usual(rng),
    "repetition": lambda rng: "I will look into it now. " * 12 + str(rng.random()),
    "flattery": lambda rng: "You're absolutely right! " + usual(rng),
    "same answer": lambda rng: "Thank you for asking, we will be in touch with you soon.",
}


@pytest.mark.parametrize("guard", BAD)
def test_what_is_bad_in_most_answers_is_refused_with_its_numbers(guard: str) -> None:
    limits = OfferLimits()
    found = {each.name: each for each in judged(shares(pairs(BAD[guard], 0.8), limits), limits)}
    assert found[guard].refuses
    assert "less live's, is 0." in found[guard].sentence
    assert "on 64; at most 0." in found[guard].sentence
    others = [name for name, each in found.items() if each.refuses and name != guard]
    assert others == (["same answer"] if guard == "one word" else [])


def test_a_base_that_answers_badly_itself_is_not_refused() -> None:
    """Live is as bad as the candidate."""
    rng, limits = random.Random(5), OfferLimits()
    for bad in BAD.values():
        alike = [Pair(f"question {i}", bad(rng), bad(rng)) for i in range(64)]
        assert not any(each.refuses for each in judged(shares(alike, limits), limits))


def test_chance_alone_refuses_nobody() -> None:
    limits, refused = OfferLimits(), 0
    for seed in range(200):
        rng = random.Random(seed)
        alike = [Pair(f"question {i}", usual(rng), usual(rng)) for i in range(32)]
        refused += any(each.refuses for each in judged(shares(alike, limits), limits))
    assert refused <= 0.05 * 200


def test_too_few_answers_judge_nothing_and_say_so() -> None:
    limits = OfferLimits()
    found = judged(shares(pairs(BAD["one word"], 1.0, count=15), limits), limits)
    assert [each.best for each in found] == [None] * 5
    assert found[0].sentence == "refusals beside live: not judged, 15 pairs are too few, 16 are needed"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Yes", True), ("", True), (" \n", True), ("42", True), ("...", True), ("好", True),
        ("Yes, it is", False),
        ("我们的包裹会在明天下午送到您的家里请您耐心等待", False),
    ],
)  # fmt: skip
def test_an_answer_of_one_word(text: str, is_one: bool) -> None:
    assert is_one_word(text) is is_one


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("no no no no " * 10, True),
        ("We are sorry for the delay of your parcel. " * 5, True),
        ("啊" * 400, True),
        (" ".join(WORDS), False),
        ("\n".join(f"{i}. Item {i * 37 % 91} costs {i * i}, in {i % 4} days." for i in range(9)), False),
        ("no no no", False),
        ("", False),
    ],
)  # fmt: skip
def test_an_answer_that_loops(text: str, does: bool) -> None:
    assert loops(text) is does


def test_praise_and_refusals_are_looked_for_at_the_beginning() -> None:
    flatters, refuses = (
        begins_with(p) for p in (AnswerLimits().flattery_pattern, AnswerLimits().refusal_pattern)
    )
    assert all(
        map(flatters, ["What a great question!", "Wow, you’re so smart.", "That is an excellent point."])
    )
    assert not any(map(flatters, ["The great lakes are five.", "You are right-handed?", "Good morning.", ""]))
    assert refuses("I’m sorry, but I can’t do that.")
    assert not refuses("x" * 300 + "I can't do that.")


def test_an_answer_that_two_prompts_get_is_the_same_but_for_space_and_case() -> None:
    assert repeated(["a", "b", "c", "c"], ["So it is.", "so  it IS.", "No.", "No."]) == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"one_word_rise": 0.0}, "one_word_rise is 0.0; a share"),
        ({"unsafe_rise": 1.5}, "unsafe_rise is 1.5"),
        ({"flattery_pattern": "("}, "flattery_pattern is no regular expression"),
        ({"least": 7}, "least is 7"),
        ({"error": 0.5}, "error is 0.5"),
        ({"check_seconds": 0.0}, "check_seconds is 0.0"),
        ({"checks": ("mine",)}, "checks names 'mine'; the import path of a function"),
    ],
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OfferLimits(**bad)  # type: ignore[arg-type]
