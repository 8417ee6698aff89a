"""`hearken keys`, and a gateway started by the command line: what people type, and who then gets in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from feedback.core.secret import load_secret
from hearken.base.errors import UsageError
from hearken.cli import main, parser
from hearken.commands.roles import GATEWAY
from hearken.commands.service import UP
from hearken.service import access, flags
from hearken.service.plan import UpSettings
from hearken.service.up import children
from serve.auth.limits import Limits
from serve.settings import GatewaySettings
from tests.serve.conftest import eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.servers import free_port


@pytest.fixture
def engine() -> Iterator[FakeVllm]:
    server = FakeVllm().start()
    yield server
    server.stop()


def create(capsys: pytest.CaptureFixture[str], data: Path, *flags: str) -> str:
    """Make a key; what is printed on standard output."""
    assert main(["keys", "create", "--data", str(data), *flags]) == 0
    return capsys.readouterr().out.strip()


def listed(capsys: pytest.CaptureFixture[str], data: Path) -> list[dict[str, object]]:
    assert main(["keys", "list", "--data", str(data), "--json"]) == 0
    keys: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return keys


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["keys", *argv]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("hearken: ")
    return said[-1]


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "new"
    secret = create(capsys, data, "--name", "shop", "--tenant", "shop", "--limit", "requests_per_minute=9")
    key_id = secret.split("-")[1]
    create(capsys, data, "--name", "ops", "--scope", "operate", "--days", "0.5")
    shop, ops = listed(capsys, data)
    assert (shop["id"], shop["scopes"], shop["tenant"]) == (key_id, ["chat", "feedback"], "shop")
    assert shop["limits"] == {"requests_per_minute": 9}
    assert (ops["scopes"], ops["state"]) == (["operate"], "in force")
    assert "expires" in ops
    assert "sha256" not in shop

    assert main(["keys", "revoke", "--data", str(data), key_id]) == 0
    assert main(["keys", "list", "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert f"{key_id}   revoked" in printed
    assert secret not in printed + (data / "keys.json").read_text()


def test_mistakes_are_told_and_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", str(tmp_path))
    assert "--name" in complaint(capsys, "create", *data)
    assert "tenant" in complaint(capsys, "create", *data, "--name", "x", "--tenant", "a b")
    assert "name" in complaint(capsys, "create", *data, "--name", "")
    assert "--days" in complaint(capsys, "create", *data, "--name", "x", "--days", "0")
    assert "requests_per_minute" in complaint(capsys, "create", *data, "--name", "x", "--limit", "rpm=1")
    assert "no key to revoke" in complaint(capsys, "revoke", *data, "abc")
    assert not (tmp_path / "keys.json").exists()
    (tmp_path / "keys.json").write_text("{")
    for command in (["create", "--name", "x"], ["list"], ["revoke", "abc"]):
        assert "cannot be used" in complaint(capsys, *command, *data)
    assert (tmp_path / "keys.json").read_text() == "{"


def test_a_service_that_others_reach_without_keys_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def on(host: str) -> GatewaySettings:
        return GatewaySettings(data=tmp_path, engines=("http://127.0.0.1:8001",), host=host)

    for host in ("127.0.0.1", "localhost", "::1"):
        assert access.check(on(host)) is None
    for host in ("0.0.0.0", "::", "192.168.1.4", "chat.example.com"):
        said = access.check(on(host))
        assert said is not None
        assert "hearken keys create" in said
    create(capsys, tmp_path, "--name", "x")
    assert access.check(on("0.0.0.0")) is None
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be used"):
        access.check(on("127.0.0.1"))


def test_a_limit_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--data", str(tmp_path), "--limit", "x=1"]) == 2
    assert "requests_per_minute" in capsys.readouterr().err


def test_up_hands_on_to_its_gateway_what_it_was_told(tmp_path: Path) -> None:
    told = [
        "--keys",
        str(tmp_path / "k.json"),
        "--limit",
        "requests_per_minute=9",
        "--cors-origin",
        "https://a.b",
    ]
    asked = flags.configured(parser().parse_args(["up", "--data", str(tmp_path), *told]), UP)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    command = children(UpSettings.of(asked), tmp_path, cuda=False)["gateway"].command
    gateway = flags.configured(parser().parse_args(command[3:]), GATEWAY).build("gateway")
    assert gateway.limits == Limits(requests_per_minute=9)
    assert (gateway.keys, gateway.cors_origins) == (tmp_path / "k.json", ("https://a.b",))


def test_the_demo_does_not_run_on_a_service_with_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(capsys, tmp_path, "--name", "x")
    assert main(["demo", "--data", str(tmp_path)]) == 2
    assert "has API keys" in capsys.readouterr().err


@contextmanager
def gateway(data: Path, engine: str, *flags: str) -> Iterator[str]:
    """`hearken gateway` as a process; its URL."""
    load_secret(data / "secret")
    port = free_port()
    command = [sys.executable, "-m", "hearken", "gateway", "--data", str(data), "--engine", engine]
    running = subprocess.Popen([*command, "--port", str(port), *flags])
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(url + "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(ready, "the gateway is ready")
        yield url
    finally:
        running.terminate()
        assert running.wait(60) == 0


def client(url: str, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=retries)


def chat(of: openai.OpenAI) -> str:
    answer = of.chat.completions.create(model="hearken", messages=[{"role": "user", "content": "hi"}])
    return answer.choices[0].message.content or ""


def test_the_openai_client_with_and_without_a_good_key(
    tmp_path: Path, engine: FakeVllm, capsys: pytest.CaptureFixture[str]
) -> None:
    good = create(capsys, tmp_path, "--name", "app")
    narrow = create(capsys, tmp_path, "--name", "widget", "--scope", "feedback")
    with gateway(tmp_path, engine.url) as url:
        assert chat(client(url, good)) == "I am base, seed None."
        with pytest.raises(openai.AuthenticationError) as wrong:
            chat(client(url, "sk-not-one-of-ours"))
        assert wrong.value.code == "invalid_api_key"
        with pytest.raises(openai.PermissionDeniedError) as denied:
            chat(client(url, narrow))
        assert denied.value.code == "missing_scope"

        later = create(capsys, tmp_path, "--name", "later")
        eventually(lambda: works(client(url, later)), "a key made while the gateway runs")
        assert main(["keys", "revoke", "--data", str(tmp_path), good.split("-")[1]]) == 0
        eventually(lambda: not works(client(url, good)), "the revoked key is refused")
        assert works(client(url, later))


def works(of: openai.OpenAI) -> bool:
    try:
        chat(of)
    except openai.AuthenticationError:
        return False
    return True


@pytest.mark.parametrize("content", ["{", None])
def test_a_gateway_with_a_key_file_that_it_cannot_use_does_not_start(
    tmp_path: Path, content: str | None
) -> None:
    load_secret(tmp_path / "secret")
    command = [
        sys.executable,
        "-m",
        "hearken",
        "gateway",
        "--data",
        str(tmp_path),
        "--port",
        str(free_port()),
    ]
    if content is None:
        command += ["--keys", str(tmp_path / "mounted.json")]
    else:
        (tmp_path / "keys.json").write_text(content)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("hearken: ")]
    assert "cannot be used" in said


@pytest.mark.redis
def test_gateways_share_limits_through_redis(
    tmp_path: Path, engine: FakeVllm, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "shared.json"
    secret = create(
        capsys, tmp_path, "--name", "app", "--keys", str(keys), "--limit", "user_requests_per_minute=0"
    )
    flags = ("--keys", str(keys), "--redis", redis_url, "--limit", "requests_per_minute=5")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        gateway(tmp_path / "one", engine.url, *flags) as one,
        gateway(tmp_path / "two", engine.url, *flags) as two,
    ):
        clients = [client(one, secret), client(two, secret)]
        for i in range(5):
            assert chat(clients[i % 2])
        for each in clients:
            with pytest.raises(openai.RateLimitError) as caught:
                chat(each)
            assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_refused_client_comes_again_by_itself(
    tmp_path: Path, engine: FakeVllm, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = create(capsys, tmp_path, "--name", "app", "--limit", "concurrent_requests=1")
    with gateway(tmp_path, engine.url) as url, ThreadPoolExecutor(1) as pool:
        stream = client(url, secret).chat.completions.create(
            model="hearken", messages=[{"role": "user", "content": Trouble.HOLD}], stream=True
        )
        next(stream)
        with pytest.raises(openai.RateLimitError):
            chat(client(url, secret))
        waiting = pool.submit(chat, client(url, secret, retries=5))
        eventually(lambda: waiting.running(), "it asks")
        engine.release.set()
        for _ in stream:
            pass
        assert waiting.result(30) == "I am base, seed None."
