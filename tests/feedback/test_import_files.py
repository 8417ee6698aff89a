"""What only whole files tell: the ranges of columns, who judges whom, the newest vote."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.dialects import Misfit, Options
from feedback.dialects.files import Found, Survey
from feedback.exchange.heard import Heard
from feedback.rows.examples import Example

ASKED = ({"role": "user", "content": "Where is it?"},)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found_in(*paths: Path, **options: Any) -> list[Found]:
    return list(Survey(paths, Options(**options)).examples())


def judged(ratings: list[Any], column: str = "rating") -> list[dict[str, Any]]:
    return [{"prompt": "x", "completion": f"y{i}", column: value} for i, value in enumerate(ratings)]


@pytest.mark.parametrize(
    ("column", "numbers", "values"),
    [
        ("rating", [1, 0.5, 0], [1.0, 0.5, 0.0]),
        ("rating", [0.5, 1, 2], None),
        ("rating", [1, 0], None),
        ("rating", [1, 1], None),
        ("rating", [5, 1], None),
        ("rating", [-1, 1], None),
        ("rating", [True, False], [1.0, 0.0]),
        ("label", [1, 0], [1.0, 0.0]),
        ("label", [1, -1], [1.0, 0.0]),
        ("label", [1, 0, -1], None),
        ("label", [0, 1, 2], None),
        ("label", [1, 0, 0.5], None),
        ("label", ["up", "down"], [1.0, 0.0]),
    ],
)
def test_the_numbers_of_a_column_tell_its_scale_or_all_are_refused(
    tmp_path: Path, column: str, numbers: list[Any], values: list[float] | None
) -> None:
    for order in range(3):
        rows = list(enumerate(judged(numbers, column)))
        random.Random(order).shuffle(rows)
        found = found_in(write(tmp_path / "rows.jsonl", [row for _, row in rows]))
        for (number, _), each in zip(rows, found, strict=True):
            if values is None:
                assert isinstance(each.said, Misfit)
                assert f"'{column}'" in str(each.said)
                assert "--scale" in str(each.said)
            else:
                assert isinstance(each.said, Example)
                assert each.said.value == values[number]


def test_a_number_that_is_not_on_the_scale_that_was_said_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", judged([1, 5, 6]))
    *good, six = (each.said for each in found_in(file, scales={"": (1.0, 5.0)}))
    assert [said.value for said in good if isinstance(said, Example)] == [0.0, 1.0]
    assert "'rating' has 6, which is not on its scale from 1 to 5" in str(six)


def test_a_scale_is_a_files_own(tmp_path: Path) -> None:
    first = write(tmp_path / "one.jsonl", judged([1, 0.5]))
    second = write(tmp_path / "two.jsonl", judged([1, 5]))
    kinds = [(each.file, type(each.said)) for each in found_in(first, second)]
    assert kinds == [(0, Example), (0, Example), (1, Misfit), (1, Misfit)]


def test_a_name_turns_only_its_own_column_around(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*judged([0.25], "toxicity"), *judged([0.25], "rating")])
    said = [each.said for each in found_in(file, columns={"toxicity": "rating"})]
    assert [each.value for each in said if isinstance(each, Example)] == [0.75, 0.25]


def test_a_direction_that_was_said_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", judged([0.25], "rating"))
    (found,) = found_in(file, directions={"rating": "lower"})
    assert isinstance(found.said, Example)
    assert found.said.value == 0.75


TRACE = {"id": "t1", "sessionId": "s", "input": "Where is it?", "output": "Here."}
SCORE = {"traceId": "t1", "name": "helpful", "value": 1, "dataType": "BOOLEAN"}


@pytest.mark.parametrize("turned", [False, True])
def test_judgements_find_their_answers_in_whichever_file_comes_first(tmp_path: Path, turned: bool) -> None:
    scores = write(tmp_path / "scores.jsonl", [SCORE, SCORE | {"traceId": "t9"}])
    traces = write(tmp_path / "traces.jsonl", [TRACE, TRACE | {"id": "t2"}])
    files = [traces, scores] if turned else [scores, traces]
    said = {(files[each.file].stem, each.row): each.said for each in found_in(*files)}
    expected = Example("thumbs", ASKED, ("Here.",), 1.0, metadata={"name": "helpful"})
    assert said.pop(("scores", 1)) == expected
    assert {place: str(misfit)[:33] for place, misfit in said.items()} == {
        ("scores", 2): "it is about 't9', no completion o",
        ("traces", 2): "nobody judged its answer in these",
    }


@pytest.mark.parametrize("turned", [False, True])
def test_a_trace_is_judged_by_its_own_texts_where_they_are_known(tmp_path: Path, turned: bool) -> None:
    root = {"id": "o1", "traceId": "t1", "type": "SPAN", "input": "Where is it?", "output": "There."}
    rows = [root, TRACE] if turned else [TRACE, root]
    scores = write(tmp_path / "scores.jsonl", [SCORE])
    said = [each.said for each in found_in(write(tmp_path / "rows.jsonl", rows), scores)]
    assert [each.answers for each in said if isinstance(each, Example)] == [("Here.",)]
    said = [each.said for each in found_in(write(tmp_path / "rows.jsonl", [root]), scores)]
    assert [each.answers for each in said if isinstance(each, Example)] == [("There.",)]


def test_a_judgement_of_an_episode_of_several_answers_is_refused(tmp_path: Path) -> None:
    inference = {
        "function_name": "f",
        "episode_id": "e",
        "input": {"messages": list(ASKED)},
        "output": "Here.",
    }
    metric = {"target_id": "e", "metric_name": "solved", "value": True}
    one = write(tmp_path / "one.jsonl", [inference | {"id": "a"}])
    two = write(tmp_path / "two.jsonl", [inference | {"id": "b"}])
    metrics = write(tmp_path / "metrics.jsonl", [metric])
    (alone,) = found_in(one, metrics)
    assert alone.said == Example("thumbs", ASKED, ("Here.",), 1.0, metadata={"name": "solved"})
    (refused,) = [each for each in found_in(one, two, metrics) if each.file == 2]
    assert "'e', which has 2 answers" in str(refused.said)


def test_one_bad_file_ends_no_other(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", judged([0.5]))
    broken = tmp_path / "broken.json"
    broken.write_text("[{")
    files = (broken, tmp_path / "nowhere.csv", good)
    first, nowhere, last = (each.said for each in found_in(*files))
    assert isinstance(last, Example)
    assert "no file" in str(nowhere)
    assert "broken.json is not JSON" in str(first)


THUMB = Example("thumbs", ASKED, ("Here.",), 1.0, rater="ada", at=10.0)
PAIR = Example("comparison", ASKED, ("a", "b"), 1.0, rater="ada")
RANKING = Example("ranking", ASKED, ("a", "b", "c"), 0.5, rater="ada", groups=((0,), (1,), (2,)))


@pytest.mark.parametrize(
    ("first", "second", "news"),
    [
        (THUMB, THUMB, "repeated"),
        (THUMB, replace(THUMB, value=0.0), "changed"),
        (THUMB, replace(THUMB, value=0.0, at=11.0), "changed"),
        (THUMB, replace(THUMB, value=0.0, at=None), "changed"),
        (THUMB, replace(THUMB, rater="eve", value=0.0), "new"),
        (THUMB, replace(THUMB, answers=("There.",)), "new"),
        (PAIR, replace(PAIR, answers=("b", "a"), value=0.0), "repeated"),
        (PAIR, replace(PAIR, answers=("b", "a")), "changed"),
        (RANKING, replace(RANKING, groups=((2,), (1,), (0,))), "changed"),
        (RANKING, replace(RANKING, answers=("c", "b", "a"), groups=((2,), (1,), (0,))), "repeated"),
    ],
)
def test_a_raters_newest_vote_counts(first: Example, second: Example, news: str) -> None:
    heard = Heard(2)
    assert heard.new(0, first) == (first, "new")
    assert heard.new(1, second) == (None if news == "repeated" else second, news)


def test_an_older_vote_that_comes_later_does_not_count() -> None:
    heard = Heard(1)
    heard.new(0, THUMB)
    assert heard.new(0, replace(THUMB, value=0.0, at=9.0)) == (None, "changed")
    assert heard.new(0, THUMB) == (None, "repeated")
