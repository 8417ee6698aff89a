"""Rows survive every kind of file, and a bad line costs only itself."""

import gzip
import json
import random
from pathlib import Path

import pytest

from feedback.rows.tables import Numbered, UnreadableFile, count_rows, read_rows, write_rows

ROWS = [
    {
        "messages": [{"role": "user", "content": 'quote " comma , line\nümläut 🦉'}],
        "value": 1.0,
        "answer": "[1]",
    },
    {"messages": [{"role": "user", "content": "x"}], "value": 0.5, "comment": '{"not": "a message"}'},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_rows_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    assert write_rows(path, iter(ROWS)) == 2
    read = [numbered.row for numbered in read_rows(path)]
    if suffix == ".csv":  # text cells only
        read = [{**row, "value": float(row["value"])} for row in read if row is not None]
    assert read == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)
    before = path.read_bytes()

    def broken() -> object:
        yield ROWS[0]
        raise RuntimeError("the log went away")

    with pytest.raises(RuntimeError):
        write_rows(path, broken())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    deep = "[" * 100_000
    path.write_text(f'{{"a": 1}}\n\nnot json\n[1]\n{{"a": 2}}\n{deep}\n')
    read = list(read_rows(path))
    assert [n for n, row, _ in read if row is not None] == [1, 5]
    assert [(n, problem.split(":")[0]) for n, row, problem in read if row is None] == [
        (3, "not JSON"),
        (4, "it is list, not an object"),
        (6, "not JSON"),
    ]
    assert count_rows(path) == 5


def test_lines_named_json_and_pages_of_an_api_are_read(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert [row for _, row, _ in read_rows(tmp_path / "lines.json")] == [{"a": 1}, {"a": 2}]
    (tmp_path / "page.json").write_text('{"data": [{"a": 1}], "meta": {}}')
    assert list(read_rows(tmp_path / "page.json")) == [Numbered(1, {"a": 1})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", b"", "ends in none of"),
        ("rows.json", b"{", "is not JSON"),
        ("rows.json", b"3", "should be a list"),
        ("rows.csv", b"\xff\xfe", "not UTF-8"),
        ("rows.parquet", b"PAR", "not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=message):
        list(read_rows(tmp_path / name))


def test_a_missing_file_and_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no file"):
        list(read_rows(tmp_path / "none.csv"))
    with pytest.raises(UnreadableFile, match="ends in none of"):
        write_rows(tmp_path / "rows.xml", ROWS)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_files_are_read_and_damaged_ones_are_told(tmp_path: Path, suffix: str) -> None:
    rows = [{"number": random.Random(i).random(), "text": "ü" * (i % 50)} for i in range(3000)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".zst":
        pack = pytest.importorskip("zstandard").ZstdCompressor().compress
        packed = pack(text[:1000]) + pack(text[1000:])  # two frames
    else:
        packed = gzip.compress(text)
    file = tmp_path / f"rows.jsonl{suffix}"
    file.write_bytes(packed)
    assert [row for _, row, _ in read_rows(file)] == rows
    (tmp_path / f"page.json{suffix}").write_bytes(packed)
    assert [row for _, row, _ in read_rows(tmp_path / f"page.json{suffix}")] == rows
    half = packed[: len(packed) // 2]
    for damaged in (half, half + b"\0" * 100, b"no archive"):
        file.write_bytes(damaged)
        with pytest.raises(UnreadableFile, match=rf"rows.jsonl{suffix} is no whole"):
            list(read_rows(file))
