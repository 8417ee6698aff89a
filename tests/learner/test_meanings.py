"""A signals file says what a product's own events mean, and what it cannot mean is refused by name."""

import re
from pathlib import Path

import pytest

from learner.votes.meanings import BUILTIN, BadMeanings, Meaning, read_meanings


def written(folder: Path, text: str) -> Path:
    file = folder / "signals.toml"
    file.write_text(text)
    return file


def test_a_file_adds_to_what_is_built_in_and_replaces_it(tmp_path: Path) -> None:
    text = """
    [checkout_completed]
    direction = "higher"
    [complained]
    direction = "lower"
    objective = "safe"
    at_least = 2
    most = 0.5
    [dwell]
    direction = "learned"
    range = [0, 10]
    """
    found = read_meanings(written(tmp_path, text))
    assert found["checkout_completed"] == Meaning("higher")
    assert found["complained"] == Meaning("lower", "safe", at_least=2.0, most=0.5)
    assert found["dwell"] == Meaning("learned", range=(0.0, 10.0)) != BUILTIN["dwell"]
    assert found["copied"] == BUILTIN["copied"]
    assert read_meanings(None) == BUILTIN


@pytest.mark.parametrize(
    ("meaning", "shares"),
    [
        (Meaning("higher"), {0.0: 0.0, 0.5: 1.0, 3.0: 1.0, -1.0: 0.0}),
        (Meaning("higher", at_least=2), {1.9: 0.0, 2.0: 1.0}),
        (Meaning("higher", range=(10, 20)), {5.0: 0.0, 15.0: 0.5, 99.0: 1.0}),
    ],
)
def test_a_number_is_put_on_a_scale(meaning: Meaning, shares: dict[float, float]) -> None:
    assert {amount: meaning.share(amount) for amount in shares} == shares


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("copied = 1", r"copied is no table; write \[copied\]"),
        ("[copied]", "direction must be one of higher, lower, learned, not None"),
        ('[copied]\ndirection = "up"', "direction must be one of higher, lower, learned, not 'up'"),
        ('[x]\ndirection = "higher"\nobjective = "nice"', "objective must be one of helpful, safe, truthful"),
        ('[x]\ndirection = "higher"\nat_leest = 1', r"\[x\] has no field at_leest"),
        ('[x]\ndirection = "higher"\nat_least = "2"', "at_least must be a number, not '2'"),
        ('[x]\ndirection = "higher"\nat_least = 2\nrange = [0, 1]', "one of them says what a number means"),
        ('[x]\ndirection = "higher"\nrange = [1, 0]', r"range must be \[lowest, highest\], not \[1, 0\]"),
        ('[x]\ndirection = "higher"\nmost = 2', "most must lie between 0 and 1, not 2"),
        ('["x/kept"]\ndirection = "higher"', "'x/kept' is no name"),
        ("[x", "is not TOML"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadMeanings, match=said):
        read_meanings(written(tmp_path, text))
    with pytest.raises(BadMeanings, match="cannot be read"):
        read_meanings(tmp_path / "nothing.toml")


PAGE = (Path(__file__).parents[2] / "docs/signals.md").read_text()


def test_the_page_has_the_names_that_are_built_in_and_its_file_can_be_read(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`.*`) \| (higher|lower|learned) \|", PAGE, re.MULTILINE)
    told = {name: direction for names, direction in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: meaning.direction for name, meaning in BUILTIN.items()}
    (shown,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = read_meanings(written(tmp_path, shown))
    assert found["checkout_completed"] == Meaning("higher")
    assert found["seconds_read"] == Meaning("learned", range=(0.0, 60.0), most=0.5)
