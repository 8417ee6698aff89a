"""A real Open WebUI in front of a gateway: its thumbs, their changes and their removal come here, once each.

`make open-webui` installs it, some 9 GB, and runs this.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.serve.conftest import Gateway, eventually, ready
from tests.servers import free_port

PROGRAM = os.environ.get("OPEN_WEBUI")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Open WebUI: `make open-webui` installs one, or $OPEN_WEBUI names its program"
)
ROOT = Path(__file__).parents[2]
FILTER = ROOT / "examples/open_webui_filter.py"
START_SECONDS = 300.0
EVALUATIONS = "/api/v1/evaluations"


class OpenWebui:
    """A running Open WebUI, asked as its own page asks it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=60)

    def ask(self, method: str, path: str, who: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {who}"} if who else {}
        answer = self.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def new_user(self, name: str, admin: str = "") -> tuple[str, str]:
        """A user's token and id: the first one signs up and is the admin, who adds the others."""
        body = {"name": name, "email": f"{name}@example.com", "password": "correct-Horse-7"}
        path = "/api/v1/auths/" + ("add" if admin else "signup")
        made = self.ask("POST", path, admin, {**body, "role": "user"} if admin else body)
        return str(made["token"]), str(made["id"])

    def install(self, who: str, content: str) -> None:
        """A filter function for all chats."""
        body = {"id": "hearken", "name": "hearken", "content": content, "meta": {"description": "names"}}
        self.ask("POST", "/api/v1/functions/create", who, body)
        assert self.ask("POST", "/api/v1/functions/id/hearken/toggle", who)["is_active"]
        assert self.ask("POST", "/api/v1/functions/id/hearken/toggle/global", who)["is_global"]

    def chat(self, who: str, text: str) -> tuple[str, dict[str, Any]]:
        """The id of a new chat, and its answer's message."""
        question, answer = str(uuid4()), str(uuid4())
        body = {
            "model": "hearken",
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "parent_id": None,
            "user_message": {"id": question, "parentId": None, "role": "user", "content": text},
            "message_ids": [{"model_id": "hearken", "message_id": answer}],
            "session_id": str(uuid4()),
            "background_tasks": {"title_generation": True, "tags_generation": True},
        }
        chat = self.ask("POST", "/api/chat/completions", who, body)["chat_id"]

        def message() -> dict[str, Any]:
            found = self.ask("GET", f"/api/v1/chats/{chat}", who)["chat"]["history"]["messages"]
            return dict(found.get(answer, {}))

        eventually(lambda: message().get("done"), "the answer is there")
        assert not message().get("error"), message()
        return chat, {"id": answer} | message()

    def rate(
        self,
        who: str,
        chat: str,
        message: dict[str, Any],
        annotation: dict[str, Any],
        feedback: str | None = None,
    ) -> str:
        """What the page sends for a thumb, and for a change of one. The feedback's id."""
        body = {
            "type": "rating",
            "data": {**annotation, "model_id": "hearken"},
            "meta": {
                "arena": False,
                "model_id": "hearken",
                "message_id": message["id"],
                "message_index": 2,
                "chat_id": chat,
                "base_models": {"hearken": None},
            },
            "snapshot": {"chat": self.ask("GET", f"/api/v1/chats/{chat}", who)},
        }
        path = f"{EVALUATIONS}/feedback" + (f"/{feedback}" if feedback else "")
        return str(self.ask("POST", path, who, body)["id"])


@contextmanager
def open_webui(folder: Path, service: str) -> Iterator[OpenWebui]:
    """Open WebUI over a service, with a database of its own, offline and without the models of its RAG."""
    assert PROGRAM is not None
    port = free_port()
    settings = {
        "DATA_DIR": str(folder),
        "WEBUI_SECRET_KEY": "0123456789abcdef0123456789abcdef",
        "OPENAI_API_BASE_URL": f"{service}/v1",
        "OPENAI_API_KEY": "unused",
        "ENABLE_OLLAMA_API": "false",
        "ENABLE_API_KEYS": "true",
        "BYPASS_MODEL_ACCESS_CONTROL": "true",
        "OFFLINE_MODE": "true",
        "RAG_EMBEDDING_ENGINE": "openai",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "SCARF_NO_ANALYTICS": "true",
        "ANONYMIZED_TELEMETRY": "false",
    }
    log = folder / "open-webui.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env={name: value for name, value in os.environ.items() if name != "CI"} | settings,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    webui = OpenWebui(f"http://127.0.0.1:{port}")
    try:
        _wait(lambda: _is_up(webui), process, log)
        yield webui
    finally:
        webui.http.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_up(webui: OpenWebui) -> bool:
    try:
        return webui.http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _wait(condition: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"Open WebUI did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with ready(tmp_path) as running:
        yield running


@contextmanager
def following(folder: Path, webui: OpenWebui, key: str, gateway: Gateway) -> Iterator[subprocess.Popen[str]]:
    """`hearken sync open-webui` that looks every second, until the block ends."""
    command = [sys.executable, "-m", "hearken", "sync", "open-webui", "--since", "7d", "--every", "1s"]
    environment = {"OPEN_WEBUI_API_KEY": key, "OPEN_WEBUI_URL": webui.url, "HEARKEN_BASE_URL": gateway.url}
    with subprocess.Popen(
        [*command, "--state", str(folder / "sync.db")],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def next_look(process: subprocess.Popen[str], wanted: str) -> None:
    """Wait for a look that comes to this."""
    assert process.stdout is not None
    for line in process.stdout:
        if wanted in line:
            return
    pytest.fail(f"the command ended without a look with {wanted!r}")


def arrives(gateway: Gateway, count: int, what: str) -> None:
    """Wait until the log has so many votes, and say how long it took."""
    begun = time.monotonic()
    eventually(lambda: len(gateway.votes()) == count, what)
    print(f"{what}: {time.monotonic() - begun:.1f} s")


def test_thumbs_of_a_real_open_webui_follow_its_users(tmp_path: Path, gateway: Gateway) -> None:
    folder = tmp_path / "webui"
    folder.mkdir()
    with open_webui(folder, gateway.url) as webui:
        admin, _ = webui.new_user("admin")
        ada, name = webui.new_user("ada", admin)
        key = webui.ask("POST", "/api/v1/auths/api_key", admin)["api_key"]
        webui.install(admin, FILTER.read_text())
        chat, message = webui.chat(ada, "What is a bee?")
        (answer,) = [each for each in gateway.completions() if each.external_id == message["id"]]
        assert answer.episode_id == chat

        with following(tmp_path, webui, key, gateway) as looking:
            next_look(looking, "0 votes sent")
            feedback = webui.rate(ada, chat, message, {"rating": 1, "reason": None, "details": None})
            arrives(gateway, 1, "the thumb")
            (thumb,) = gateway.votes()
            assert (thumb.kind, thumb.label) == ("thumbs", "up")
            assert thumb.targets[0].external_id == message["id"]
            assert thumb.rater == answer.user == gateway.signer.pseudonym("default", name)

            said = {"rating": -1, "reason": "too_verbose", "comment": "Long.", "details": {"rating": 2}}
            assert webui.rate(ada, chat, message, {**said, "tags": ["Bees"]}, feedback) == feedback
            arrives(gateway, 2, "its change")
            changed = gateway.votes()[1]
            assert (changed.event_id, changed.label) == (thumb.event_id, "down")
            assert (changed.reasons, changed.comment, changed.tags) == (["too_long"], "Long.", ["Bees"])

        def joined() -> bool:
            told = gateway.http.get(f"/v1/feedback/{thumb.event_id}").json()["targets"][0]["joined"]
            return [each["completion_id"] for each in told] == [answer.completion_id]

        eventually(joined, "the thumb is on the answer")

        with following(tmp_path, webui, key, gateway) as looking:
            next_look(looking, "0 votes sent, 0 taken back, 1 unchanged")
            assert len(gateway.votes()) == 2
            assert webui.ask("DELETE", f"{EVALUATIONS}/feedback/{feedback}", ada)
            arrives(gateway, 3, "its removal")
            gone = gateway.votes()[2]
            assert (gone.event_id, gone.kind) == (thumb.event_id, "retraction")

        with following(tmp_path, webui, key, gateway) as looking:
            next_look(looking, "0 votes sent, 0 taken back, 0 unchanged")
            assert len(gateway.votes()) == 3
            webui.rate(ada, chat, message, {"rating": 1})
            arrives(gateway, 4, "a new thumb")
            assert gateway.votes()[3].event_id == thumb.event_id
            webui.ask("DELETE", f"/api/v1/users/{name}", admin)
            arrives(gateway, 5, "the removal of who gave it")
            assert [vote.kind for vote in gateway.votes()[3:]] == ["thumbs", "retraction"]
