"""The command line as a user meets it: a fast help, and one clear line for every mistake."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.core import losses
from hearken.base import checks
from hearken.base.errors import UsageError
from hearken.cli import main, parser
from tests.servers import free_ports

COMMANDS = (
    *("up", "demo", "tiny", "gateway", "controller", "learner", "learn"),
    *("config", "keys", "status", "release", "rollback", "pause", "resume", "version"),
)
HEAVY = ("torch", "transformers", "vllm", "fastapi", "aiohttp", "pydantic", "rich", "httpx", "kafka")


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    """The first of four ports in a row that are free now."""
    return free_ports(4)


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that was asked wrongly says: one line, exit code 2."""
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("hearken: ")
    assert len([line for line in error if line.startswith("hearken: ")]) == 1
    return error[-1]


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from hearken.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in COMMANDS:
        assert f"\n    {command}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert "None" not in capsys.readouterr().out
    made = parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr,index]
    for action in made.filled()._actions:
        assert action.help, action.option_strings


def test_a_port_that_is_taken(busy_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "up", "--data", str(tmp_path), "--port", str(busy_port))
    expected = f"hearken: port {busy_port} is in use by another program; free it or pass --port N"
    assert said == expected


def test_a_port_above_the_first_one_that_is_taken(
    free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port + 1))
        taken.listen()
        said = complaint(capsys, "up", "--data", str(tmp_path), "--port", str(free_port))
    assert f"port {free_port + 1} is in use" in said


@pytest.mark.parametrize("port", ["0", "65534", "-1"])
def test_a_port_that_does_not_exist(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ports go from 1 to 65535" in complaint(capsys, "up", "--data", str(tmp_path), f"--port={port}")


def test_an_address_that_is_not_ours(
    free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "up", "--data", str(tmp_path), "--host", "192.0.2.1", "--port", str(free_port))
    assert "192.0.2.1 is not an address of this machine" in said


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_model_folder_that_does_not_exist(
    model: str, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "up", "--data", str(tmp_path), "--port", str(free_port), "--model", model)
    assert said == f"hearken: model folder {model} does not exist"


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ([], "config.json"),
        (["config.json"], "safetensors"),
        (["config.json", "model.safetensors"], "tokenizer.json"),
    ],
)
def test_a_folder_that_holds_no_model(
    files: list[str],
    missing: str,
    free_port: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in files:
        (folder / file).write_text("{}")
    said = complaint(capsys, "up", "--data", str(tmp_path), "--port", str(free_port), "--model", str(folder))
    assert "is not a model folder" in said
    assert missing in said


def test_a_second_service_on_one_data_folder(
    free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with checks.only_one(tmp_path):
        said = complaint(capsys, "up", "--data", str(tmp_path), "--port", str(free_port))
    assert f"another hearken (process {os.getpid()}) runs on {tmp_path}" in said
    with checks.only_one(tmp_path):
        pass  # it was let go of


def test_a_data_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = complaint(capsys, "up", "--data", str(tmp_path / "file" / "data"))
    assert "cannot be written: Not a directory" in said


def test_a_redis_that_does_not_answer(
    free_port: int, busy_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("up", "--data", str(tmp_path), "--port", str(free_port))
    assert "no Redis answers at redis://127.0.0.1:1/0" in complaint(
        capsys, *arguments, "--redis", "redis://127.0.0.1:1/0"
    )
    assert "is not a Redis URL; write redis://HOST:6379/0" in complaint(
        capsys, *arguments, "--redis", "localhost"
    )


def test_a_kafka_that_does_not_answer_is_only_a_warning(busy_port: int) -> None:
    warning = checks.kafka_warning("127.0.0.1:1")
    assert warning is not None
    assert warning.startswith("warning: no Kafka answers at 127.0.0.1:1")
    assert "events wait in the outbox" in warning
    assert checks.kafka_warning(f"127.0.0.1:{busy_port}") is None
    assert checks.kafka_warning(f"127.0.0.1:1,127.0.0.1:{busy_port}") is None
    with pytest.raises(UsageError, match="neither HOST:PORT, such as localhost:9092, nor a file of client"):
        checks.kafka_warning("localhost")


def test_a_loss_is_accepted_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data", str(tmp_path))
    assert "is not a service's data folder" in complaint(capsys, "accept-loss", "0123456789ab", *where)
    (tmp_path / "secret").write_bytes(bytes(32))
    assert "'all' is no code of a loss" in complaint(capsys, "accept-loss", "all", *where)
    for code in ("0123456789ab", "ba9876543210"):
        assert main(["accept-loss", code, *where]) == 0
        assert code in capsys.readouterr().out
    assert (tmp_path / losses.FILE).read_text().split() == ["0123456789ab", "ba9876543210"]


def test_a_broken_persona(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "persona.json"
    broken.write_text('{"likes": ')
    said = complaint(capsys, "demo", "--data", str(tmp_path), "--persona", str(broken))
    assert f"persona {broken} is not JSON" in said
    said = complaint(capsys, "demo", "--data", str(tmp_path), "--persona", "nobody")
    assert "no persona nobody: neither a file nor one of " in said


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "demo", "--data", str(tmp_path), "--report", str(tmp_path))
    assert "is a folder; name a file" in said


def test_minutes_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "demo", "--data", str(tmp_path), "--minutes", "0")
    assert said == "hearken: --minutes: minutes is 0; it must be above 0"


def test_a_learner_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the learner needs --model" in complaint(capsys, "learner", "--data", str(tmp_path))


@pytest.mark.parametrize("command", ["gateway", "controller", "status", "rollback"])
def test_a_folder_that_is_no_data_folder(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a service's data folder" in complaint(capsys, command, "--data", str(tmp_path))


def test_an_engine_that_is_no_url(tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    checks.ensure_secret(tmp_path)
    said = complaint(capsys, "gateway", "--data", str(tmp_path), "--port", str(free_port), "--engine", "here")
    assert said.startswith("hearken: --engine: engine 'here' is not a URL")


def test_the_secret_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    checks.ensure_secret(tmp_path)
    secret = (tmp_path / "secret").read_bytes()
    assert len(secret) == 32
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    checks.ensure_secret(tmp_path)
    assert (tmp_path / "secret").read_bytes() == secret
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(UsageError, match="fewer than 16 bytes"):
        checks.ensure_secret(tmp_path)


def test_the_version_is_told_as_a_flag_and_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    told = capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, told)
    assert told.strip()


def test_status_and_rollback_go_through_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks.ensure_secret(tmp_path)
    assert main(["status", "--data", str(tmp_path)]) == 0
    assert "every user gets the base model" in capsys.readouterr().out
    assert main(["status", "--json", "--data", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["live"] is None
    assert main(["rollback", "--data", str(tmp_path), "--reason", "too rude", "--wait", "0"]) == 0

    from deploy.history.releases import read_history
    from feedback.opening import open_log

    log = open_log(tmp_path, None, "test")
    try:
        [command] = read_history(log).commands
    finally:
        log.close()
    assert (command.action, command.reason) == ("rollback", "too rude")
