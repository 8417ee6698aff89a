"""`hearken release verify`, `replay` and `rehearse` on a service's data folder, and on copies of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.history.signing import public_key
from feedback.core.secret import load_secret
from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.operate.certificates import since_when
from tests.deploy.certified import copied, entries_of, place_of, tell_story, with_value
from tests.deploy.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("service"), anchor_weight=0.0)
    tell_story(made)
    yield made
    made.close()


class Printed:
    """Runs `hearken release ..` on a folder, and gives what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, data: Path, *argv: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert main(["release", *argv, "--data", str(data)]) == code
        out, err = self._capsys.readouterr()
        return err if code == 2 else out

    def as_json(self, data: Path, *argv: str, code: int = 0) -> list[Any]:
        return [json.loads(line) for line in self(data, *argv, "--json", code=code).splitlines()]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    """A copy of the log alone, without secret and adapters."""
    with copied(entries_of(world.log), tmp_path) as log:
        return log.path.parent


@pytest.fixture
def changed(world: World, tmp_path: Path) -> Path:
    """A copy in which the sentence of decision 5 was changed."""
    entries = entries_of(world.log)
    i = place_of(entries, 5)
    value = entries[i].value.replace(b"Promoted", b"promoted")
    with copied(with_value(entries, i, value), tmp_path) as log:
        return log.path.parent


def test_verify_says_what_holds(world: World, printed: Printed) -> None:
    said = printed(world.folder, "verify")
    assert "decisions    9, a chain from decision 1 on" in said
    assert "signatures   9, checked with the keys at hand" in said
    assert "votes        those of 4 decisions are what they were\n" in said
    assert "manifests    2 and their files are what was decided on\n" in said
    assert f"key          {public_key(load_secret(world.folder / 'secret'))}" in said
    assert "WRONG" not in said
    told = json.loads(printed(world.folder, "verify", "--json"))
    assert (told["decisions"], told["problems"], told["signatures_checked"]) == (9, [], True)
    printed(world.folder, "verify", "--head", told["head"][1])
    missing = printed(world.folder, "verify", "--head", "0" * 64, code=1)
    assert f"WRONG        the chain: no decision has the sha256 {'0' * 64}" in missing


def test_a_copy_needs_neither_secret_nor_adapters(world: World, copy: Path, printed: Printed) -> None:
    said = printed(copy, "verify")
    assert "signatures   9, not checked: neither the service's secret nor a --key is here" in said
    assert "manifests    0 and their files are what was decided on, 2 are not here" in said
    assert not (copy / "secret").exists(), "a look makes nothing"
    key = public_key(load_secret(world.folder / "secret"))
    assert "signatures   9, checked with the keys at hand" in printed(copy, "verify", "--key", key)
    printed(copy, "verify", "--key", "0" * 64, code=1)
    refused = printed(copy, "verify", "--key", "mine", code=2)
    assert "--key 'mine' is no public key of 64 hexadecimal digits" in refused


def test_what_was_changed_is_named_and_ends_with_1(world: World, changed: Path, printed: Printed) -> None:
    key = public_key(load_secret(world.folder / "secret"))
    said = printed(changed, "verify", "--key", key, code=1)
    assert "WRONG        decision 5: its signature is not of this content" in said
    assert "WRONG        decision 5: not the record that decision 6 was made after" in said
    told = json.loads(printed(changed, "verify", "--json", code=1))
    assert [problem[0] for problem in told["problems"]] == ["decision 5"], "the chain alone tells it, too"
    differs = [each for each in printed.as_json(changed, "replay", code=1) if each["verdict"] == "differs"]
    assert [each["number"] for each in differs] == [5]
    assert differs[0]["why"].startswith("sentence was 'promoted")
    assert "release-2 policy-1-02551aaf  differs" in printed(changed, "rehearse", code=1), (
        "no ground to stand on"
    )


def test_replay_prints_the_same_bytes_on_a_copy(world: World, tmp_path: Path, printed: Printed) -> None:
    there = tmp_path / "elsewhere" / "copy"
    shutil.copytree(world.folder, there)
    for form in ((), ("--json",), ("--release", "release-6")):
        said = printed(world.folder, "replay", *form)
        assert said == printed(there, "replay", *form)
        assert "same" in said
    assert "decision 9, harmful" in said
    assert printed(world.folder, "replay", "--release", "release-3") == (
        "no decision follows from votes and answers in release-3\n"
    )


def test_rehearse_repeats_history_and_tells_what_other_settings_change(
    world: World, printed: Printed
) -> None:
    first, second = (version for version in world.registry.versions())
    said = printed(world.folder, "rehearse").splitlines()
    assert [line.split("  ", 1)[1] for line in said] == [
        f"release-2 {first}  same",
        f"release-6 {second}  same",
    ]
    other = printed(world.folder, "rehearse", "--set", "controller.promote_bound=2")
    assert f"release-2 {first}  differs: sooner than decision 5: Promoted {first}" in other
    told = printed.as_json(
        world.folder, "rehearse", "--set", "controller.guardrails.z=9", "--set", "controller.margin=0"
    )
    assert [each["verdict"] for each in told] == ["same", "same"]
    assert printed(world.folder, "rehearse", "--since", "1d") == "no release began since then\n"
    assert len(printed.as_json(world.folder, "rehearse", "--since", "2023-11-14")) == 2


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (
            ["--set", "controller.webhooks=[]"],
            "controller.webhooks judges no release; a rehearsal can change",
        ),
        (["--set", "controller.margin=2"], "--set: margin is 2.0; it has to be in [0, 1)"),
        (["--set", "controller.marign=0"], "controller.margin"),
        (["--since", "soon"], "--since 'soon' is no time; write 7d, 12h or 2026-11-29"),
    ],
)
def test_what_cannot_be_rehearsed_says_why(
    world: World, printed: Printed, argv: list[str], says: str
) -> None:
    assert says in printed(world.folder, "rehearse", *argv, code=2)


def test_a_folder_without_a_log_is_told_so(tmp_path: Path, printed: Printed) -> None:
    for action in ("verify", "replay", "rehearse"):
        assert "has no log.db; name a service's data folder, or a copy" in printed(tmp_path, action, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "then"),
    [("7d", 1e6 - 604_800), ("90s", 1e6 - 90), ("12h", 1e6 - 43_200), ("1970-01-02", 86_400)],
)
def test_since_is_a_time_or_so_long_ago(text: str, then: float) -> None:
    assert since_when(text, 1e6) == then


@pytest.mark.parametrize("text", ["", "d", "-1d", "7w", "1.5d", "٣d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time; write 7d"):
        since_when(text, 1e6)
