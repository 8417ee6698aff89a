"""An engine's prefix cache: shared within a tenant, never between tenants, and told to who may know."""

from pathlib import Path

import pytest

from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import PROMPT, FakeVllm
from tests.serve.test_access import CHAT, add_key, bearer

TEXT = {"model": "hearken", "prompt": "Once upon a time"}


class Tenants:
    """A gateway with a key that may chat, and no more, for each of two tenants."""

    def __init__(self, gateway: Gateway, keys: dict[str, str]) -> None:
        self._gateway = gateway
        self._keys = keys

    def cached(self, tenant: str, **fields: object) -> int:
        """How many tokens of a prompt were cached for a tenant, as its answer tells."""
        body = TEXT if "prompt" in fields else CHAT
        path = "/v1/completions" if body is TEXT else "/v1/chat/completions"
        answer = self._gateway.http.post(path, json=body | fields, headers=bearer(self._keys[tenant]))
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count


@pytest.fixture
def tenants(start: Start, fake: FakeVllm, tmp_path: Path) -> Tenants:
    file = tmp_path / "keys.json"
    keys = {tenant: add_key(file, ["chat"], tenant=tenant) for tenant in ("red", "blue")}
    fake.tells_cached = True
    return Tenants(start(), keys)


@pytest.mark.parametrize("fields", [{}, TEXT])
def test_no_tenant_finds_prompts_of_another_and_each_finds_its_own(
    tenants: Tenants, fields: dict[str, object]
) -> None:
    assert [tenants.cached("red", **fields) for _ in range(3)] == [0, len(PROMPT), len(PROMPT)]
    assert [tenants.cached("blue", **fields) for _ in range(2)] == [0, len(PROMPT)]


def test_a_clients_own_salt_parts_its_users_and_opens_no_others_cache(
    tenants: Tenants, fake: FakeVllm
) -> None:
    tenants.cached("red")
    theirs = fake.requests[-1]["cache_salt"]
    assert tenants.cached("red", cache_salt="ada") == 0
    assert tenants.cached("red", cache_salt="ada") == len(PROMPT)
    assert tenants.cached("red", cache_salt="bob") == 0
    assert tenants.cached("red", cache_salt=None) == len(PROMPT)
    for guess in (theirs, "ada", "red", "red\0", "\0red"):
        assert tenants.cached("blue", cache_salt=guess) == 0


def test_salts_are_what_vllm_takes_and_tell_no_tenant(tenants: Tenants, fake: FakeVllm) -> None:
    for salt in (None, "with / and @", "x" * 128):
        tenants.cached("red", cache_salt=salt)
        assert len(fake.requests[-1]["cache_salt"]) == 32
        assert set(fake.requests[-1]["cache_salt"]) <= set("0123456789abcdef")


def test_gateways_with_one_secret_share_caches(start: Start, fake: FakeVllm) -> None:
    one, other = start(), start()
    for gateway in (one, other):
        gateway.chat()
    first, second = fake.requests
    assert first["cache_salt"] == second["cache_salt"]


def test_streams_and_comparisons_tell_it_too(start: Start, fake: FakeVllm, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", ["chat"])
    fake.tells_cached = True
    gateway = start()
    pair = gateway.http.post("/v1/chat/completions", json=CHAT | {"n": 2, "hearken": {"compare": True}},
                             headers=bearer(key)).json()  # fmt: skip
    # Both sides ask the base at the same time: one of them finds what the other left.
    assert pair["usage"]["prompt_tokens_details"] == {"cached_tokens": len(PROMPT)}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = gateway.http.post("/v1/chat/completions", json=CHAT | options, headers=bearer(key))
    assert f'"prompt_tokens_details":{{"cached_tokens":{len(PROMPT)}}}' in answer.text


def test_nothing_is_told_that_the_engine_does_not_tell(start: Start, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", ["chat"])
    answer = start().http.post("/v1/chat/completions", json=CHAT, headers=bearer(key)).json()
    assert "prompt_tokens_details" not in answer["usage"]
