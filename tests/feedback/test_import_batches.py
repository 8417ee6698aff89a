"""What an import writes follows from its rows alone, and what it cannot write is told by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from feedback.core.ids import Signer
from feedback.dialects import Options
from feedback.dialects.files import Survey
from feedback.exchange.import_batches import Batch, Batches, redacted
from feedback.exchange.import_options import BadOption, parse_options
from feedback.exchange.import_report import MOST_REASONS, Report
from feedback.exchange.importing import Importer
from feedback.opening import open_sealer
from feedback.rows.examples import Example, Message
from feedback.rows.tables import write_rows

ROWS = [{"prompt": f"x {i}", "completion": "y", "label": i % 2 == 0} for i in range(250)]


def encode(messages: tuple[Message, ...], answer: str) -> tuple[list[int], list[int]]:
    return [1] * len(str(messages)), [2] * len(answer)


def batches(tmp_path: Path, rows: list[dict[str, Any]], written: int = 0) -> tuple[list[Batch], Report]:
    """What an import of rows gives, of whose examples so many are written."""
    file, options, report = tmp_path / "in.jsonl", Options(), Report("rows")
    write_rows(file, rows)
    importer = Importer(Signer(b"0123456789abcdef"), "default", encode, now=1e9)
    sealer = open_sealer(tmp_path)
    found = list(Batches(Survey([file], options), options, [report], importer, written).sealed(sealer))
    sealer.close()
    return found, report


def ids(found: list[Batch]) -> list[str]:
    """Event, revision: all that tells whether two records are one."""
    records = [json.loads(entry.value) for batch in found for entry in batch.entries]
    return [f"{record['event_id']} {record.get('revision')}" for record in records]


@pytest.mark.parametrize("written", [0, 1, 99, 100, 249, 250])
def test_an_import_goes_on_where_it_was(tmp_path: Path, written: int) -> None:
    whole, first = batches(tmp_path, ROWS)
    rest, second = batches(tmp_path, ROWS, written)
    assert ids(rest) == ids(whole)[2 * written :]
    assert first.as_dict() == second.as_dict()
    assert [batch.examples for batch in whole] == [100, 200, 250]


def test_a_row_that_no_record_can_hold_is_skipped(tmp_path: Path) -> None:
    found, report = batches(tmp_path, [ROWS[0], {**ROWS[1], "completion": "y" * 6_000_000}])
    assert len(ids(found)) == 2
    ((reason, rows),) = report.skipped.items()
    assert ("longer than an entry of the log" in reason, rows) == (True, [2])


def test_reasons_are_bounded_and_no_row_is_forgotten() -> None:
    report = Report("rows")
    for row in range(1, MOST_REASONS + 101):
        report.skip(f"reason {row}", row)
    assert len(report.skipped) == MOST_REASONS + 1
    assert sum(map(len, report.skipped.values())) == MOST_REASONS + 100


def test_every_text_of_an_example_goes_through_the_redactor() -> None:
    talk = ({"role": "user", "content": [{"type": "text", "text": "secret"}]},)
    example = Example(
        "thumbs", talk, ("secret",), 1.0, comment="secret", tags=("secret",), metadata={"a": "secret"}
    )
    assert "secret" not in repr(redacted(example, lambda text: text.replace("secret", "-")))


@pytest.mark.parametrize(
    ("layout", "scales", "columns", "directions", "name"),
    [
        ("trl", [], [], [], "layout"),
        ("auto", ["5"], [], [], "scale"),
        ("auto", ["5:1"], [], [], "scale"),
        ("auto", [], ["a"], [], "map"),
        ("auto", [], ["a=scale"], [], "map"),
        ("auto", [], [], ["a=up"], "direction"),
    ],
)
def test_a_bad_option_is_named(
    layout: str, scales: list[str], columns: list[str], directions: list[str], name: str
) -> None:
    with pytest.raises(BadOption) as error:
        parse_options(layout, scales, columns, directions)
    assert error.value.name == name
