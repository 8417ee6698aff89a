"""Who may vote learns nothing from the API that tells policies apart."""

from pathlib import Path

import pytest

from serve.auth.caller import Scope
from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import CHAT, add_key, bearer
from tests.serve.test_errors import error_of

TEXT = {"model": "hearken", "prompt": "Once upon a time"}
ASKING = [
    ("/v1/chat/completions", CHAT | {"logprobs": True}),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 5, "stream": True}),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "store": True}),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "n": 2, "hearken": {"compare": True}}),
    ("/v1/comparisons", CHAT | {"logprobs": True}),
    ("/v1/completions", TEXT | {"logprobs": 0}),
    ("/v1/completions", TEXT | {"logprobs": 1, "echo": True, "max_tokens": 0}),
]


@pytest.fixture(scope="module")
def scopes() -> list[tuple[list[Scope], bool]]:
    """Scopes of keys, and whether their holders are blind."""
    return [
        (["chat", "feedback"], True),
        (["chat"], False),
        (["chat", "operate"], False),
        (["chat", "feedback", "operate"], False),
    ]


def test_logprobs_are_for_keys_that_may_not_vote(
    start: Start, fake: FakeVllm, tmp_path: Path, scopes: list[tuple[list[Scope], bool]]
) -> None:
    keys = [add_key(tmp_path / "keys.json", may) for may, _ in scopes]
    gateway = start()
    for key, (may, blind) in zip(keys, scopes, strict=True):
        for path, body in ASKING:
            fake.requests.clear()
            answer = gateway.http.post(path, json=body, headers=bearer(key))
            if not blind:
                assert answer.status_code == 200, (may, path, answer.text)
                continue
            error = error_of(answer)
            assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
            assert error["param"] == "logprobs"
            assert "blind_voters" in str(error["message"])
            assert fake.requests == []


def test_everyone_is_blind_where_everyone_may_vote(gateway: Gateway) -> None:
    for path, body in ASKING:
        answer = gateway.http.post(path, json=body)
        assert (answer.status_code, error_of(answer)["param"]) == (400, "logprobs")


def test_an_operator_may_show_them_to_all(start: Start) -> None:
    gateway = start(blind_voters=False)
    for path, body in ASKING:
        assert gateway.http.post(path, json=body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/comparisons"])
@pytest.mark.parametrize("stream", [False, True])
def test_counts_of_cached_tokens_are_not_for_voters(
    start: Start, fake: FakeVllm, path: str, stream: bool
) -> None:
    fake.tells_cached = True
    gateway = start()
    body = TEXT if path == "/v1/completions" else CHAT
    if stream and path != "/v1/comparisons":
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
    for _ in range(2):
        answer = gateway.http.post(path, json=body)
        assert answer.status_code == 200
        assert '"prompt_tokens":' in answer.text
        assert "cached" not in answer.text
