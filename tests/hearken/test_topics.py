"""`hearken topics`: the topics that are missing are made, and what is wrong is said."""

from pathlib import Path

import pytest

from bench._ports import free_port
from hearken.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--kafka is needed: HOST:PORT[,HOST:PORT...] or a file of client settings"),
        (["--kafka", "brokers"], "brokers is neither HOST:PORT"),
        (["--kafka", "kafka:9092", "--replication", "0"], "--replication is 0; it has to be 1 or more"),
        (["--kafka", "kafka:9092", "--partitions", "0"], "--partitions is 0; it has to be 1 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["topics", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_broker_that_is_away_is_an_error_and_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    assert main(["topics", "--kafka", bootstrap]) == 1
    assert f"no broker at {bootstrap} made or told the topics" in capsys.readouterr().err


@pytest.mark.kafka
def test_missing_topics_are_made_as_asked_and_those_that_are_there_stay(
    kafka_bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.properties"
    file.write_text(f"bootstrap.servers={kafka_bootstrap}\ntopic.prefix=made-\n")
    for partitions in ("3", "5"):
        assert main(["topics", "--kafka", str(file), "--partitions", partitions, "--replication", "1"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in shown] == [
            ["made-completions", "3"],
            ["made-feedback", "3"],
            ["made-releases", "1"],
            ["made-updates", "1"],
        ]
