"""POST /v1/imports: what `hearken import` does with a file, once, whatever happens on the way."""

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard

from feedback.exchange.exports import EXPORTS
from feedback.rows.tables import write_rows
from feedback.sqlite.log import SqliteLog
from hearken.cli import main
from hearken.service.roles import import_command
from tests.feedback.shapes_annotations import ANNOTATIONS
from tests.feedback.shapes_datasets import DATASETS
from tests.feedback.shapes_services import SERVICES
from tests.feedback.shapes_trainers import TRAINERS
from tests.hearken.test_import_export import EXAMPLES
from tests.serve.conftest import SECRET, Gateway, Start
from tests.serve.imports import GZIP, LINES, ZSTD, Row, counted, events, imported, lines, refusal, rows, send
from tests.serve.test_access import add_key, bearer

SHAPES = {
    name: shapes[name]
    for shapes, name in (
        (TRAINERS, "named columns"),
        (DATASETS, "Nectar"),
        (SERVICES, "Langfuse, blobs"),
        (ANNOTATIONS, "Label Studio"),
    )
}


def zipped(data: bytes) -> bytes:
    """By gzip, without the time: tests are named by it, and all processes of a run must name them alike."""
    return gzip.compress(data, mtime=0)


def asked(name: str) -> tuple[list[Row], dict[str, list[str]]]:
    """The rows of a shape, and the options that they need."""
    if name == "every kind":
        return [dict(EXPORTS["hearken"](example)) for example in EXAMPLES], {}
    shape = SHAPES[name]
    scales = [f"{column}={low:g}:{high:g}".lstrip("=") for column, (low, high) in shape.scales.items()]
    columns = [f"{column}={field}" for column, field in shape.columns.items()]
    options = {"scale": scales, "map": columns}
    return [row for file in (shape.rows, *shape.files) for row in file], options


@pytest.mark.parametrize("name", ["every kind", *SHAPES])
def test_a_body_gives_the_events_that_its_file_gives(
    name: str, tmp_path: Path, tiny_model: Path, importer: Gateway
) -> None:
    found, options = asked(name)
    file, report, data = tmp_path / "in.jsonl", tmp_path / "report.json", tmp_path / "cli"
    write_rows(file, found)
    data.mkdir()
    (data / "secret").write_bytes(SECRET)
    flags = [word for option, texts in options.items() for text in texts for word in (f"--{option}", text)]
    told = ["--data", str(data), "--model", str(tiny_model), "--report", str(report)]
    assert main(["import", str(file), *told, *flags]) == 0
    before = Counter(map(repr, events(importer)))
    answer = send(importer, file.read_bytes(), params=options).json()
    (by_file,) = json.loads(report.read_text())
    assert {name: answer[name] for name in by_file} == {**by_file, "file": "the body"}
    log = SqliteLog(data / "log.db")
    by_command = events(Gateway("", data, log, importer.signer, importer.http))
    log.close()
    new = Counter(map(repr, events(importer))) - before
    assert new == Counter(map(repr, by_command)) != Counter()


def test_the_same_body_again_writes_nothing(importer: Gateway) -> None:
    body = lines(rows("again"))
    first, before = send(importer, body).json(), counted(importer)
    again = send(importer, body).json()
    assert (first["written"], first["written_before"]) == (3, 0)
    assert (again["written"], again["written_before"], again["imported"]) == (0, 3, {"thumbs": 3})
    assert counted(importer) == before


def test_every_kind_of_body_is_read(importer: Gateway, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    write_rows(table, rows("csv"))
    parquet = tmp_path / "rows.parquet"
    write_rows(parquet, rows("parquet"))
    packed = {"content-encoding": "gzip"}
    for body, kind, headers in (
        (json.dumps(rows("json")).encode(), "application/json", {}),
        (table.read_bytes(), "text/csv; charset=utf-8", {}),
        (parquet.read_bytes(), "application/vnd.apache.parquet", {}),
        (zipped(lines(rows("gzip"))), LINES, packed),
        (zipped(lines(rows("two"))) + zipped(lines(rows("members"))), LINES, packed),
        (zstandard.compress(lines(rows("zstd"))), LINES, {"content-encoding": "zstd"}),
        (zipped(lines(rows("gz"))), "application/gzip", {}),
        (zstandard.compress(lines(rows("zst"))), "application/zstd", {}),
    ):
        told = send(importer, body, kind, headers=headers)
        assert sum(imported(told).values()) in (3, 6), kind


@pytest.mark.parametrize(
    ("body", "kind", "headers", "status", "code"),
    [
        (b"{}", "text/plain", {}, 415, "unsupported_media_type"),
        (b"{}", "", {}, 415, "unsupported_media_type"),
        (b"a=b", "application/x-www-form-urlencoded", {}, 415, "unsupported_media_type"),
        (b"{}", LINES, {"content-encoding": "br"}, 415, "unsupported_content_encoding"),
        (zipped(b"{}"), "application/gzip", GZIP, 415, "unsupported_media_type"),
        (b"no archive", LINES, GZIP, 400, "invalid_archive"),
        (zipped(lines(rows("cut")))[:-9], LINES, GZIP, 400, "invalid_archive"),
        (zstandard.compress(b"x" * 99)[:-2], LINES, ZSTD, 400, "invalid_archive"),
        (b"", LINES, GZIP, 400, "invalid_archive"),
        (b"", LINES, {}, 400, "nothing_imported"),
        (b"[1", "application/json", {}, 400, "nothing_imported"),
        (b"\xff", "text/csv", {}, 400, "nothing_imported"),
        (b"x" * 1_000_001, LINES, {}, 413, "request_too_large"),
        (zipped(bytes(99_000_000)), LINES, GZIP, 413, "request_too_large"),
        (zstandard.compress(bytes(99_000_000)), LINES, ZSTD, 413, "request_too_large"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_taken_is_refused_and_nothing_is_written(
    importer: Gateway, body: bytes, kind: str, headers: dict[str, str], status: int, code: str
) -> None:
    before = counted(importer)
    answer = send(importer, body, kind, headers=headers)
    assert refusal(answer, status) == code
    assert ".import-" not in answer.text  # where the body lay is nobody's business
    assert counted(importer) == before


def test_a_body_without_its_length_is_bounded_too(importer: Gateway) -> None:
    assert refusal(send(importer, iter([b"x" * 600_000] * 2)), 413) == "request_too_large"


def test_rows_that_cannot_be_used_are_told_with_their_numbers(importer: Gateway) -> None:
    good = rows("skipped", 1)
    answer = send(importer, lines([*good, {"prompt": "x"}]) + b"no json\n")
    assert imported(answer) == {"thumbs": 1}
    told = {reason[:8]: skipped for reason, skipped in answer.json()["skipped"].items()}
    assert told == {"it has p": {"count": 1, "rows": [2]}, "not JSON": {"count": 1, "rows": [3]}}
    nothing = send(importer, lines([{"prompt": "x"}]))
    assert refusal(nothing, 400) == "nothing_imported"
    assert "--map" in nothing.json()["error"]["message"]
    assert list(nothing.json()["report"]["skipped"].values()) == [{"count": 1, "rows": [1]}]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"scale": "5"}, "scale"),
        ({"scale": "5:1"}, "scale"),
        ({"map": "score"}, "map"),
        ({"map": "scroe=rating"}, "map"),
        ({"direction": "mood=up"}, "direction"),
        ({"layout": "trl"}, "layout"),
        ({"layout": ["trl-kto", "auto"]}, "layout"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"scal": "1:5"}, "scal"),
    ],
)
def test_an_option_that_says_nothing_is_refused(importer: Gateway, query: Any, param: str) -> None:
    answer = send(importer, lines(rows("options")), params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_dry_run_tells_and_writes_nothing(importer: Gateway) -> None:
    body, before = lines(rows("dry")), counted(importer)
    assert imported(send(importer, body, params={"dry_run": "true"})) == {"thumbs": 3}
    assert counted(importer) == before
    assert send(importer, body).json()["written"] == 3


def test_a_key_imports_into_its_own_tenant(start: Start, tmp_path: Path, command: tuple[str, ...]) -> None:
    keys = tmp_path / "keys.json"
    app = add_key(keys, ["chat", "feedback"])
    acme = add_key(keys, ["operate"], tenant="acme")
    gateway = start(import_command=command)
    body = lines(rows("tenant"))
    assert send(gateway, body).status_code == 401
    assert refusal(send(gateway, body, headers=bearer(app)), 403) == "missing_scope"
    other = send(gateway, body, headers=bearer(acme), params={"tenant": "default"})
    assert refusal(other, 403) == "other_tenant"
    assert counted(gateway) == Counter()
    assert imported(send(gateway, body, headers=bearer(acme), params={"tenant": "acme"})) == {"thumbs": 3}
    assert {event["tenant"] for event in events(gateway)} == {"acme"}


def test_a_gateway_without_a_model_says_what_to_set(gateway: Gateway) -> None:
    answer = send(gateway, lines(rows("no model")))
    assert refusal(answer, 404) == "imports_not_configured"
    assert "service.model" in answer.text


def test_a_model_that_is_not_there_is_named(start: Start) -> None:
    gateway = start(import_command=import_command("/nowhere"))
    answer = send(gateway, lines(rows("no folder")))
    assert refusal(answer, 404) == "imports_not_configured"
    assert "/nowhere" in answer.text


def test_what_a_gateway_redacts_is_redacted_in_imports(start: Start, command: tuple[str, ...]) -> None:
    gateway = start(import_command=command, redact="patterns")
    row = {"prompt": "I am ada@example.com", "completion": "Hello ada@example.com", "label": True}
    assert imported(send(gateway, lines([row]))) == {"thumbs": 1}
    (completion,) = gateway.completions()
    assert completion.messages[0]["content"] == "I am [email]"
    assert completion.choices[0].text == "Hello [email]"
    assert len(completion.prompt_token_ids) > 0


def test_no_text_is_left_behind(importer: Gateway) -> None:
    send(importer, io.BytesIO(lines(rows("a secret word"))))
    assert list(importer.data.glob(".import-*")) == []
