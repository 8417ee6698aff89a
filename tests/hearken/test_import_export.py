"""Files go into the log, come out of it, and say the same."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.ids import Signer
from feedback.core.secret import load_secret
from feedback.dialects import parse
from feedback.exchange.exports import EXPORTS
from feedback.joining.join import Joiner
from feedback.opening import open_log, open_sealer
from feedback.rows.examples import Example
from feedback.rows.tables import count_rows, read_rows, write_rows
from hearken.cli import main

DATA = Path(__file__).parents[1] / "data"  # in the layouts of files that people share
TALK = ({"role": "user", "content": "Where is my parcel?"},)
EXAMPLES = [
    Example("comparison", TALK, ("On its way.", "No idea."), 1.0, rater="ada", at=1763600000.0, tags=("a",)),
    Example("comparison", TALK, ("On its way.", "Here."), 0.0, rater="bob", comment="clear"),
    Example("comparison", TALK, ("Here.", "There."), 0.5, rater="bob"),
    Example("thumbs", TALK, ("No idea.",), 0.0, rater="ada", reasons=("incorrect",)),
    Example("thumbs", TALK, ("On its way.",), 1.0),
    Example("rating", TALK, ("Here.",), 0.25, metadata={"name": "helpful"}),
    Example("ranking", TALK, ("On its way.", "Here.", "No idea."), 0.5, rater="ada", groups=((0,), (1, 2))),
    Example("correction", TALK, ("It is on its way.", "On its way."), 1.0, rater="ada"),
    Example("demonstration", TALK, ("It comes on Monday.",), 1.0),
]
Run = Callable[..., int]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    """Runs import or export on a data folder."""

    def command(name: str, data: str, file: Path, *more: str) -> int:
        model = ("--model", str(tiny_model)) if name == "import" else ()
        return main([name, str(file), "--data", str(tmp_path / data), *model, *more])

    return command


def said(examples: list[Example]) -> set[tuple[Any, ...]]:
    """What examples say, whoever is named as the rater and in whatever order."""
    return {
        (e.kind, json.dumps(e.messages), e.answers, e.value, e.comment, e.tags, e.reasons, e.groups)
        for e in examples
    }


def read(file: Path) -> list[Example]:
    return [parse(row, "auto") for _, row, _ in read_rows(file) if row is not None]


def test_what_was_imported_is_exported_and_imported_again(run: Run, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first.jsonl", "second.jsonl", "third.parquet"))
    write_rows(first, map(EXPORTS["hearken"], EXAMPLES))
    assert run("import", "one", first) == 0
    assert run("export", "one", second) == 0
    assert said(read(second)) == said(EXAMPLES)
    assert run("import", "two", second) == 0
    assert run("export", "two", third) == 0
    assert sorted(read(third), key=repr) == sorted(read(second), key=repr)  # raters too, by their pseudonyms


def test_importing_twice_is_importing_once(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    write_rows(file, map(EXPORTS["hearken"], EXAMPLES))
    assert run("import", "one", file) == 0
    assert run("import", "one", file) == 0
    assert run("export", "one", out) == 0
    assert len(read(out)) == len(EXAMPLES)


def test_imported_votes_join_with_the_tokens_that_the_engine_would_see(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    file = tmp_path / "in.jsonl"
    write_rows(file, [EXPORTS["trl-preference"](EXAMPLES[0])])
    assert run("import", "one", file) == 0
    log = open_log(tmp_path / "one", None, "test")
    try:
        records, _ = log.read([COMPLETIONS, FEEDBACK], {})
    finally:
        log.close()
    assert b"parcel" not in b"".join(record.value for record in records)  # sealed
    (label,) = Joiner(sealer=open_sealer(tmp_path / "one")).feed(records)
    assert (label.kind, label.source) == ("comparison", "import")
    better = label.answers[0] if label.value == 1.0 else label.answers[1]
    assert better.text == "On its way."
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.decode(better.token_ids) == "On its way." + tokenizer.eos_token
    asked = tokenizer.apply_chat_template(list(TALK), add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(better.prompt_token_ids) == asked


def test_rows_that_cannot_be_used_are_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, report = tmp_path / "in.jsonl", tmp_path / "report.json"
    good = json.dumps({"prompt": "x", "completion": "y", "label": True})
    file.write_text(f'{good}\nnot json\n{{"prompt": "x"}}\n{good}\n{{"prompt": "x"}}\n')
    assert run("import", "one", file, "--report", str(report)) == 0
    told = capsys.readouterr().out
    assert "5 rows, imported 1 thumbs" in told
    assert "1 said again" in told
    (counted,) = json.loads(report.read_text())
    assert (counted["rows"], counted["imported"], counted["repeated"]) == (5, {"thumbs": 1}, 1)
    assert sorted((s["count"], s["rows"]) for s in counted["skipped"].values()) == [(1, [2]), (2, [3, 5])]


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(file, map(EXPORTS["hearken"], EXAMPLES))
    assert run("import", "one", file, "--dry-run") == 0
    assert run("export", "one", out) == 0
    assert read(out) == []


@pytest.mark.parametrize("layout", ["trl-preference", "openai-dpo", "trl-kto"])
def test_other_layouts_leave_out_what_they_cannot_say(
    run: Run, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(file, map(EXPORTS["hearken"], EXAMPLES))
    run("import", "one", file)
    assert run("export", "one", out, "--layout", layout) == 0
    kinds = [example.kind for example in read(out)]
    assert kinds == (["thumbs"] * 2 if layout == "trl-kto" else ["comparison"] * 3)
    assert "left out" in capsys.readouterr().out


def raters(file: Path) -> set[str | None]:
    return {example.rater for example in read(file)}


def test_an_export_is_of_one_tenant_and_may_be_of_one_user_or_of_a_time(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs, out = (tmp_path / name for name in ("ours.jsonl", "theirs.jsonl", "out.jsonl"))
    write_rows(ours, map(EXPORTS["hearken"], EXAMPLES))
    write_rows(theirs, map(EXPORTS["hearken"], EXAMPLES[:2]))
    assert run("import", "one", ours) == 0
    assert run("import", "one", theirs, "--tenant", "acme") == 0
    assert run("export", "one", out, "--tenant", "acme") == 0
    assert said(read(out)) == said(EXAMPLES[:2])
    assert "9 left out: it is another tenant's" in capsys.readouterr().out
    signer = Signer(load_secret(tmp_path / "one" / "secret"))
    ada, bob = (signer.pseudonym("default", name) for name in ("ada", "bob"))
    assert run("export", "one", out, "--user", "ada", "--user", bob) == 0
    assert raters(out) == {ada, bob}
    assert len(read(out)) == 6
    assert run("export", "one", out, "--until", "2025-11-20T00:53:21") == 0
    assert [example.at for example in read(out)] == [1763600000.0]
    assert run("export", "one", out, "--since", "2025-11-20T00:53:21Z") == 0
    assert len(read(out)) == len(EXAMPLES) - 1
    assert run("export", "one", out, "--since", "yesterday") == 2
    assert "is no time" in capsys.readouterr().err


def test_people_in_files_are_who_they_are_in_chats_and_nobody_needs_a_key(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    unnamed: list[dict[str, Any]] = [
        {"prompt": f"x{i // 2}", "completion": "y", "label": i % 2 == 0} for i in range(60)
    ]
    named = EXPORTS["trl-kto"](Example("thumbs", TALK, ("Here.",), 1.0, rater="ada"))
    write_rows(file, [*unnamed, named])
    assert run("import", "one", file) == 0
    db = sqlite3.connect(tmp_path / "one/vault/keys.db")
    assert db.execute("SELECT count(*) FROM keys").fetchone() == (2,)  # ada's, and one for all the rest
    db.close()
    ada = Signer(load_secret(tmp_path / "one" / "secret")).pseudonym("default", "ada")
    sealer = open_sealer(tmp_path / "one")
    assert sealer.erase("default", ada)
    sealer.close()
    assert run("export", "one", out) == 0
    assert (len(read(out)), ada in raters(out)) == (60, False)


PEOPLE = [
    *(Example("thumbs", TALK, ("Here.",), value, rater=f"u{n}") for n, value in enumerate((1.0, 0.0, 1.0))),
    *(Example("comparison", TALK, ("a.", "b."), value, rater=f"u{n}") for n, value in enumerate((1.0, 0.0))),
    Example("comparison", TALK, ("true", '[{"role": "user", "content": "x"}]'), 1.0, rater="u1"),
    Example("comparison", TALK, ("a,\r\n", '"b"'), 0.0, rater="u2"),
]


def judged(examples: list[Example]) -> list[Any]:
    """What is said of which answers, how often, whichever answer is named first."""
    return sorted((e.kind, *sorted(zip(e.answers, (e.value, 1.0 - e.value), strict=False))) for e in examples)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("layout", ["hearken", "trl-preference", "trl-kto", "openai-dpo"])
def test_every_layout_brings_back_what_it_can_say_in_every_kind_of_file(
    run: Run, tmp_path: Path, layout: str, suffix: str
) -> None:
    file, out, again = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", tmp_path / "again.jsonl"
    write_rows(file, map(EXPORTS["hearken"], PEOPLE))
    assert run("import", "one", file) == 0
    assert run("export", "one", out, "--layout", layout) == 0
    assert run("import", "two", out) == 0
    assert run("export", "two", again) == 0
    kinds = {"trl-kto": ("thumbs",), "hearken": ("thumbs", "comparison")}.get(layout, ("comparison",))
    assert judged(read(again)) == judged([example for example in PEOPLE if example.kind in kinds])


def test_two_who_are_not_named_and_disagree_are_two(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[dict[str, object]] = [
        {"prompt": "x", "completion": "y", "label": label} for label in (True, False)
    ]
    write_rows(file, rows)
    for _ in range(2):
        assert run("import", "one", file) == 0
    assert run("export", "one", out) == 0
    assert sorted(example.value for example in read(out)) == [0.0, 1.0]


def test_the_bar_knows_how_many_rows_there_are(tmp_path: Path) -> None:
    for suffix in ("jsonl", "json", "csv", "parquet"):
        write_rows(tmp_path / f"rows.{suffix}", map(EXPORTS["hearken"], EXAMPLES))
        assert count_rows(tmp_path / f"rows.{suffix}") == len(EXAMPLES)


@pytest.mark.parametrize("name", ["sharegpt_pairs.json", "labelled_messages.json", "alpaca.json"])
def test_files_that_people_share_survive_the_round(run: Run, tmp_path: Path, name: str) -> None:
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    assert run("import", "one", DATA / name) == 0
    assert run("export", "one", out) == 0
    assert {e.identity for e in map(_unnamed, read(out))} == {e.identity for e in read(DATA / name)}
    assert run("import", "two", out) == 0
    assert run("export", "two", again) == 0
    assert sorted(map(repr, read(again))) == sorted(map(repr, read(out)))


def _unnamed(example: Example) -> Example:
    return Example(example.kind, example.messages, example.answers, example.value)


def test_a_bad_file_ends_nothing_and_everything_is_in_the_report(
    run: Run, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good, more = tmp_path / "bad.jsonl.gz", tmp_path / "good.jsonl", tmp_path / "nowhere.csv"
    report, out = tmp_path / "report.json", tmp_path / "out.jsonl"
    bad.write_bytes(b"no archive")
    write_rows(good, [EXPORTS["trl-kto"](EXAMPLES[3])])
    flags = ["--data", str(tmp_path / "one"), "--model", str(tiny_model), "--report", str(report)]
    assert main(["import", str(bad), str(good), str(more), *flags]) == 2
    errors = capsys.readouterr().err
    assert "bad.jsonl.gz is no whole gzip file" in errors
    assert "no file" in errors
    first, second, third = json.loads(report.read_text())
    assert (first["imported"], second["imported"], third["imported"]) == ({}, {"thumbs": 1}, {})
    assert (bool(first["problem"]), second["problem"], bool(third["problem"])) == (True, None, True)
    assert run("export", "one", out) == 0
    assert said(read(out)) == said([Example("thumbs", TALK, ("No idea.",), 0.0)])


def test_the_newest_vote_of_a_rater_counts_whichever_row_comes_first(run: Run, tmp_path: Path) -> None:
    file, out, report = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "report.json"
    votes = [("ada", 1.0, 9.0), ("ada", 0.0, 8.0), ("eve", 1.0, None), ("eve", 0.0, None)]
    examples = [Example("thumbs", TALK, ("Here.",), value, rater=who, at=at) for who, value, at in votes]
    write_rows(file, map(EXPORTS["hearken"], examples))
    for _ in range(2):
        assert run("import", "one", file, "--report", str(report)) == 0
        (counted,) = json.loads(report.read_text())
        assert (counted["imported"], counted["changed"]) == ({"thumbs": 2}, 2)
    assert run("export", "one", out) == 0
    assert {(e.at == 9.0, e.value) for e in read(out)} == {(True, 1.0), (False, 0.0)}


def test_flags_say_what_columns_are(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"q": "x", "completion": "y", "toxicity": stars, "mood": 3, "more": {"n": 1}} for stars in (1, 4)]
    write_rows(file, rows)
    flags = (
        "--map",
        "q=prompt",
        "--map",
        "toxicity=rating",
        "--map",
        "mood=ignore",
        "--map",
        "more.n=ignore",
    )
    assert run("import", "one", file, *flags) == 1
    assert run("import", "one", file, *flags, "--scale", "rating=1:5") == 0
    assert run("export", "one", out) == 0
    assert sorted(example.value for example in read(out)) == [0.25, 1.0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scale", "5"], "LOWEST:HIGHEST"),
        (["--scale", "5:1"], "LOWEST:HIGHEST"),
        (["--map", "score"], "COLUMN=FIELD"),
        (["--map", "score=ratng"], "'ratng' is no field"),
        (["--map", "scroe=rating"], "'scroe', which no row has"),
        (["--direction", "mood=up"], "higher or lower"),
    ],
)
def test_a_flag_that_says_nothing_is_refused(
    run: Run, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    write_rows(file, map(EXPORTS["hearken"], EXAMPLES))
    assert run("import", "one", file, *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere.json"], "no file"),
        (["import", "rows.txt"], "ends in none of"),
        (["export", "out.xml"], "not a service's data folder"),
    ],
)
def test_mistakes_end_with_one_line(
    tiny_model: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_model)] if arguments[0] == "import" else []
    assert main([*arguments, "--data", str(tmp_path / "data"), *model]) == 2
    assert message in capsys.readouterr().err
