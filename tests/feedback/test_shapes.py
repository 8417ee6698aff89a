"""The shapes that people's files have say what they say, and no shape is ever taken for a demonstration."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.dialects import LAYOUTS, About, Misfit, Options, Shown, detect, read
from feedback.dialects.files import Survey
from feedback.rows.examples import Example
from tests.feedback.shapes import Rows, Shape
from tests.feedback.shapes_annotations import ANNOTATIONS
from tests.feedback.shapes_datasets import DATASETS
from tests.feedback.shapes_services import SERVICES
from tests.feedback.shapes_trainers import TRAINERS

SHAPES = TRAINERS | DATASETS | SERVICES | ANNOTATIONS
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def survey(folder: Path, shape: Shape, files: Sequence[Rows]) -> list[Example | Misfit]:
    """What files say, given what was said about the shape."""
    paths = []
    for number, each in enumerate(files):
        paths.append(folder / f"{number}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in each))
    options = Options(scales=shape.scales, columns=shape.columns, directions=shape.directions)
    return [found.said for found in Survey(paths, options).examples()]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_says_what_it_says(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    options = Options(scales=shape.scales, columns=shape.columns, directions=shape.directions)
    assert detect(options.renamed(shape.rows[0])) == shape.layout
    assert survey(tmp_path, shape, [shape.rows, *shape.files]) == list(shape.expected)


def test_every_layout_has_a_shape_and_a_line_in_the_documents() -> None:
    refused = {"oasst-message", "tensorzero-comment"}  # they judge nothing
    seen = {shape.layout for shape in SHAPES.values()}
    files = [rows for shape in SHAPES.values() for rows in ([], *shape.files)]
    seen |= {detect(row) for rows in (*files, SERVICES["TensorZero"].rows) for row in rows}
    assert LAYOUTS.keys() - seen - refused == {"hearken", "alpaca", "sharegpt"}  # in test_dialects
    documented = DOCS.read_text()
    assert [name for name in LAYOUTS if f"`{name}`" not in documented] == []


def paths_of(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a column in a row, at any depth."""
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, inner in items:
        if isinstance(key, str):
            yield (*path, key)
        yield from paths_of(inner, (*path, key))


def renamed(content: Any, path: Sequence[Any], name: str) -> Any:
    first, *rest = path
    if isinstance(content, list):
        return [renamed(each, rest, name) if i == first else each for i, each in enumerate(content)]
    if rest:
        return content | {first: renamed(content[first], rest, name)}
    return {name if key == first else key: inner for key, inner in content.items()}


JUDGED = [
    name for name, shape in SHAPES.items() if all(each.kind != "demonstration" for each in shape.expected)
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(JUDGED), st.data())
def test_no_judged_row_with_a_column_renamed_is_imitated(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    shape = SHAPES[name]
    files = [list(shape.rows), *map(list, shape.files)]
    rows = data.draw(st.sampled_from(files))
    number = data.draw(st.integers(0, len(rows) - 1))
    path = data.draw(st.sampled_from(list(paths_of(rows[number]))))
    unknown = data.draw(st.text("bcdfghjklmnpqrstvwxz", min_size=5, max_size=9))
    rows[number] = renamed(rows[number], path, unknown)
    found = survey(tmp_path_factory.mktemp("rows"), shape, files)
    assert [said for said in found if isinstance(said, Example) and said.kind == "demonstration"] == []


JUNK = (None, True, -1, 7, 10**400, "", "x", "\ud800", "[", "[1]", [], [[]], [1], [{}], {}, {"x": None})


def replaced(content: Any, path: Sequence[Any], junk: Any) -> Any:
    if not path:
        return junk
    first, *rest = path
    if isinstance(content, list):
        return [replaced(each, rest, junk) if i == first else each for i, each in enumerate(content)]
    return content | {first: replaced(content[first], rest, junk)}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(list(SHAPES)), st.data())
def test_whatever_a_cell_holds_its_row_is_read_or_refused(name: str, data: st.DataObject) -> None:
    shape = SHAPES[name]
    rows = data.draw(st.sampled_from([shape.rows, *shape.files]))
    row = data.draw(st.sampled_from(rows))
    path = data.draw(st.sampled_from(list(paths_of(row))))
    row = replaced(row, path, data.draw(st.sampled_from(JUNK)))
    options = Options(scales=shape.scales, columns=shape.columns, directions=shape.directions)
    for options.numbers.complete in (False, True):
        try:
            said = read(row, options)
        except Misfit:
            continue
        for each in said:
            if isinstance(each, About):
                each.of(Shown(each.names, (), "x"))
            elif isinstance(each, Example) and options.numbers.complete:
                assert 0.0 <= each.value <= 1.0


@pytest.mark.parametrize("column", ["zufriedenheit", "mark_given", "q7", "bewertung", "userFeedback", "okay"])
@pytest.mark.parametrize("value", [False, -1, 0.0, "bad", {"x": 0}, [1]])
def test_an_answer_beside_a_column_that_is_unknown_is_not_imitated(
    column: str, value: object, tmp_path: Path
) -> None:
    for row in TRAINERS["demonstrations"].rows:
        shape = Shape("demonstration", [row | {column: value}], [])
        (refused,) = survey(tmp_path, shape, [shape.rows])
        assert isinstance(refused, Misfit)
        assert f"'{column}" in str(refused)
        assert "--map" in str(refused)
