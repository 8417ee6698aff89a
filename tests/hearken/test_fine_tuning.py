"""`hearken sft` from files to version 0, by its command line."""

import json
from pathlib import Path

import pytest

from deploy.registry.registry import Registry
from feedback.core.events import RELEASES
from feedback.core.log import Entry
from feedback.opening import open_log
from hearken.cli import main

ROWS = [
    {"prompt": f"Where is my order {i}?", "completion": "Your parcel is on its way."} for i in range(30)
] + [{"instruction": "Say when it arrives.", "input": "", "output": "It arrives in two days."}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shown.json"
    path.write_text(json.dumps([*ROWS, {"prompt": "No answer?"}]))
    return path


def sft(tiny_model: Path, file: Path, data: Path, *more: str) -> int:
    flags = ["--demonstrations", str(file), "--model", str(tiny_model), "--data", str(data), "--epochs", "1"]
    return main(["sft", *flags, *more])


def test_demonstrations_become_version_0(
    tiny_model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert sft(tiny_model, file, data, "--rank", "513") == 2
    assert "at most 512" in capsys.readouterr().err
    assert sft(tiny_model, file, data, "--rank", "16") == 0
    told = capsys.readouterr().out
    assert "imported 31 demonstration" in told
    assert "1 skipped" in told
    registry = Registry(data / "adapters")
    (version,) = registry.versions()
    assert version.startswith("policy-0-")
    assert version in told
    manifest = registry.verify(version)
    assert (manifest.parent, manifest.training["demonstrations"], manifest.rank) == ("base", 28, 16)
    assert all(len(probe.logprobs) == len(probe.token_ids) > 0 for probe in manifest.probes)
    assert sft(tiny_model, file, data) == 2
    assert "a service that is new" in capsys.readouterr().err


def test_a_base_in_few_bits_is_trained_on_and_the_served_one_told_of(
    tiny_model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from learner.model.shared import SharedModel

    data = tmp_path / "data"
    assert sft(tiny_model, file, data, "--set", "learner.base_bits=3") == 2
    assert "it must be one of 16, 8, 4" in capsys.readouterr().err
    assert sft(tiny_model, file, data, "--set", "learner.base_bits=4") == 0
    registry = Registry(data / "adapters")
    (version,) = registry.versions()
    probe = registry.verify(version).probes[0]
    items = [(probe.prompt_token_ids, probe.token_ids)]
    served = SharedModel(str(tiny_model)).answer_logprobs(items, None, exact=True)
    assert probe.base_logprobs == pytest.approx(served[0].tolist(), abs=1e-5)
    assert probe.logprobs != probe.base_logprobs


def test_a_service_that_has_started_gets_no_version_0(
    tiny_model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    log = open_log(data, None, "tester")
    log.append([Entry(RELEASES, "release", b"{}")]).result()
    log.close()
    assert sft(tiny_model, file, data) == 2
    assert "has started" in capsys.readouterr().err


def test_a_service_whose_learner_has_started_gets_no_version_0(
    tiny_model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "learner" / "checkpoint").mkdir(parents=True)
    assert sft(tiny_model, file, tmp_path) == 2
    assert "has started" in capsys.readouterr().err


def test_a_file_without_demonstrations_says_what_it_has(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "thumbs.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "completion": "Hello.", "label": True}) + "\n")
    assert sft(tiny_model, file, tmp_path / "data") == 2
    assert "a thumbs is no demonstration" in capsys.readouterr().err
    assert sft(tiny_model, tmp_path / "none.jsonl", tmp_path / "data") == 2
