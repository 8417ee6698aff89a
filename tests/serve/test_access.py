"""A gateway with keys: who gets in, what each may do, and keys that come and go while it runs."""

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import openai
import pytest

from deploy.history.table import RoutingTable
from serve.auth.access import Access, KeysUnusable
from serve.auth.caller import Scope
from serve.auth.keyfile import edit_keys, read_keys
from serve.auth.keys import Key, file_of, make_key
from serve.auth.limits import UNSET
from serve.metrics import Metrics
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_errors import error_of

CHAT = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}


def add_key(path: Path, scopes: Sequence[Scope], **fields: object) -> str:
    """Put a new key into the file; the key."""
    key, secret = make_key("a test", list(scopes), datetime.now(UTC), **fields)  # type: ignore[arg-type]
    edit_keys(path, lambda keys: [*keys, key])
    return secret


def revoke_all(path: Path) -> None:
    now = datetime.now(UTC) - timedelta(seconds=1)
    edit_keys(path, lambda keys: [key.model_copy(update={"revoked": now}) for key in keys])


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def status(gateway: Gateway, secret: str | None, path: str = "/v1/models") -> int:
    return gateway.http.get(path, headers=bearer(secret) if secret else {"authorization": ""}).status_code


def test_each_scope_opens_its_routes_and_no_others(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: add_key(file, [scope]) for scope in ("chat", "feedback", "operate")}
    gateway = start()
    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
    routes = {
        ("POST", "/v1/chat/completions"): (CHAT, "chat", 200),
        ("POST", "/v1/comparisons"): (CHAT, "chat", 200),
        ("GET", "/v1/models"): (None, "chat", 200),
        ("GET", "/v1/models/hearken"): (None, "chat", 200),
        ("POST", "/v1/feedback"): (vote, "feedback", 202),
        ("GET", "/metrics"): (None, "operate", 200),
    }
    for (method, path), (body, needed, good) in routes.items():
        for scope, secret in keys.items():
            answer = gateway.http.request(method, path, json=body, headers=bearer(secret))
            assert answer.status_code == (good if scope == needed else 403), (path, scope)
            if scope != needed:
                error = error_of(answer)
                assert (error["code"], error["type"]) == ("missing_scope", "invalid_request_error")
                assert needed in str(error["message"])
        answer = gateway.http.request(method, path, json=body)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key"), path
    for path in ("/livez", "/readyz", "/", "/app.js", "/style.css", "/operate", "/operate.js"):
        assert status(gateway, None, path) == 200


def test_what_is_refused_and_in_which_words(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat"])
    expired = add_key(file, ["chat"], expires=datetime.now(UTC) - timedelta(seconds=1))
    gateway = start()
    for header in (
        "",
        secret,
        "Bearer",
        f"Basic {secret}",
        f"Bearer {secret}x",
        f"Bearer {secret[:-1]}",
        f"Bearer {secret.upper()}",
        f"Bearer {secret} {secret}",
        "Bearer hk-unknown-" + "x" * 43,
        "Bearer \xe9\xff" + secret,
        f"Bearer {expired}",
    ):
        answer = gateway.http.get("/v1/models", headers={"authorization": header.encode("latin-1")})  # type: ignore[dict-item]
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (401, "invalid_api_key"), header
        assert answer.headers["www-authenticate"] == "Bearer"
        assert secret not in answer.text
    assert "expired" in answer.text
    for header in (f"Bearer {secret}", f"bearer {secret}", f"Bearer  {secret}"):
        assert gateway.http.get("/v1/models", headers={"authorization": header}).status_code == 200


def test_a_caller_is_refused_before_its_body_is_read(start: Start, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", ["chat"])
    gateway = start(max_body_bytes=10)
    assert gateway.http.post("/v1/chat/completions", content=b"x" * 100).status_code == 401


def test_keys_come_and_go_without_a_restart(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    gateway = start()
    assert status(gateway, None) == 200
    secret = add_key(file, ["chat", "operate"])
    eventually(lambda: status(gateway, None) == 401, "the first key closes the service")
    assert status(gateway, secret) == 200
    another = add_key(file, ["chat"])
    eventually(lambda: status(gateway, another) == 200, "another key")
    revoke_all(file)
    eventually(lambda: status(gateway, secret) == 401, "the keys are revoked")
    assert status(gateway, None) == 401


def test_a_broken_or_missing_file_leaves_the_last_keys_in_force(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat", "operate"])
    good = file.read_bytes()
    gateway = start()
    gateway.http.headers.update(bearer(secret))

    def stale() -> bool:
        return gateway.metric("hearken_keys_stale") == 1

    with caplog.at_level(logging.ERROR):
        file.write_bytes(b"{ broken")
        eventually(stale, "the broken file is noticed")
        assert "cannot be used" in caplog.text
    assert (status(gateway, secret), status(gateway, None)) == (200, 401)
    file.write_bytes(good)
    eventually(lambda: not stale(), "the mended file is noticed")
    file.unlink()
    eventually(stale, "the missing file is noticed")
    assert (status(gateway, secret), status(gateway, None)) == (200, 401)


def test_an_open_service_closes_when_its_first_key_file_is_broken(start: Start, tmp_path: Path) -> None:
    gateway = start()
    (tmp_path / "keys.json").write_bytes(b"{")
    eventually(lambda: status(gateway, None) == 401, "the service is closed")
    secret = make_key("app", ["chat"], datetime.now(UTC))
    (tmp_path / "keys.json").write_bytes(file_of([secret[0]]))
    eventually(lambda: status(gateway, secret[1]) == 200, "the mended file lets its key in")


def test_a_mounted_secret_is_followed_through_its_links(start: Start, tmp_path: Path) -> None:
    """Kubernetes swaps a link to a folder; the file's own path is a link through it."""

    def mount(keys: list[Key], name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_bytes(file_of(keys))
        os.symlink(name, tmp_path / "..data_tmp")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    first, one = make_key("one", ["chat"], datetime.now(UTC))
    second, two = make_key("two", ["chat"], datetime.now(UTC))
    mount([first], "v1")
    os.symlink("..data/keys.json", tmp_path / "mounted.json")
    gateway = start(keys=tmp_path / "mounted.json")
    assert (status(gateway, one), status(gateway, two)) == (200, 401)
    mount([second], "v2")
    eventually(lambda: status(gateway, two) == 200, "the new keys")
    assert status(gateway, one) == 401


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys": 3}'])
def test_a_gateway_does_not_start_on_keys_that_it_cannot_use(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysUnusable, match="cannot be used"):
        Access(file, True, UNSET, Metrics())


def test_no_keys_at_all_let_nobody_in(start: Start, tmp_path: Path) -> None:
    edit_keys(tmp_path / "keys.json", lambda keys: keys)
    assert read_keys(tmp_path / "keys.json") == []
    assert status(start(), None) == 401


def test_tenants_do_not_share_users(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = [add_key(file, ["chat", "feedback"], tenant=tenant) for tenant in ("red", "blue")]
    gateway = start()
    users = set()
    for tenant, secret in zip(("red", "blue"), keys, strict=True):
        answer = gateway.http.post(
            "/v1/chat/completions", json={**CHAT, "user": "ada"}, headers=bearer(secret)
        )
        completion = gateway.completion(answer.json()["id"])
        assert completion.tenant == tenant
        users.add(completion.user)
        vote = {"kind": "thumbs", "completion_id": completion.completion_id, "value": "up", "user": "ada"}
        assert gateway.http.post("/v1/feedback", json=vote, headers=bearer(secret)).status_code == 202
        assert (gateway.votes()[-1].tenant, gateway.votes()[-1].rater) == (tenant, completion.user)
    assert len(users) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_only_an_operators_key_is_told_arm_and_version(
    start: Start, tmp_path: Path, fake: FakeVllm, stream: bool
) -> None:
    table = RoutingTable(
        epoch=3, salt="s", live="policy-1-aaaaaaaa", canary="policy-2-bbbbbbbb",
        control="policy-1-aaaaaaaa", weight=0.3,
    )  # fmt: skip
    fake.adapters = {"policy-1-aaaaaaaa", "policy-2-bbbbbbbb"}

    def hidden(answer: httpx.Response) -> bool:
        headers = str(answer.headers).lower()
        body = json.dumps({**json.loads(answer.text), "choices": []}) if not stream else ""
        return "canary" not in headers + body and "policy" not in headers + body and answer.status_code == 200

    gateway = start()
    gateway.decide(table)
    user = gateway.user_of_arm("canary", table)
    assert hidden(gateway.chat(user=user, stream=stream))  # the open service's callers are its voters

    file = tmp_path / "keys.json"
    app, operator = add_key(file, ["chat"]), add_key(file, ["chat", "operate"])
    eventually(lambda: status(gateway, operator) == 200 and status(gateway, None) == 401, "the keys")
    assert hidden(gateway.http.post(
        "/v1/chat/completions", json={**CHAT, "user": user, "stream": stream}, headers=bearer(app)
    ))  # fmt: skip
    for arm, name in (("canary", user), ("live", gateway.user_of_arm("live", table))):
        answer = gateway.http.post(
            "/v1/chat/completions", json={**CHAT, "user": name, "stream": stream}, headers=bearer(operator)
        )
        shown = (answer.headers["x-hearken-arm"], answer.headers["x-hearken-policy-version"])
        assert shown == (arm, table.version(arm))  # type: ignore[arg-type]


def test_the_openai_client_raises_what_it_should(start: Start, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.json", ["feedback"])
    gateway = start()
    bad = openai.OpenAI(base_url=gateway.url + "/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        bad.chat.completions.create(model="hearken", messages=[{"role": "user", "content": "hi"}])
    assert refused.value.code == "invalid_api_key"
    narrow = openai.OpenAI(base_url=gateway.url + "/v1", api_key=secret, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError) as denied:
        narrow.models.list()
    assert denied.value.code == "missing_scope"
