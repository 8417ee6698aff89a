"""Which web pages may call: none, unless their origin is listed; and listed ones can read errors too."""

import json
from pathlib import Path

import httpx
import pytest

from serve.auth.feedback_tokens import HEADER
from serve.auth.limits import Limits
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import CHAT, add_key, bearer
from tests.serve.test_errors import JSON

SHOP, OTHER = "https://shop.example", "https://other.example"
ASKED = "authorization,content-type,x-stainless-lang,idempotency-key"


def preflight(gateway: Gateway, origin: str, path: str = "/v1/chat/completions") -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": ASKED,
    }
    return gateway.http.options(path, headers=headers)


def may_read(answer: httpx.Response, origin: str = SHOP) -> bool:
    return answer.headers.get("access-control-allow-origin") in (origin, "*")


def test_no_page_of_another_origin_may_call_by_default(steady: Gateway) -> None:
    assert not may_read(preflight(steady, SHOP))
    assert not may_read(steady.http.post("/v1/chat/completions", json=CHAT, headers={"origin": SHOP}))


def test_a_listed_origin_may_call_and_read_what_it_needs(start: Start) -> None:
    gateway = start(cors_origins=(SHOP, "http://localhost:3000"))
    for path in ("/v1/chat/completions", "/v1/feedback"):
        answer = preflight(gateway, SHOP, path)
        assert (answer.status_code, may_read(answer)) == (200, True)
        assert answer.headers["access-control-allow-headers"] == ASKED
        assert "access-control-allow-credentials" not in answer.headers
    for stream in (False, True):
        body = {**CHAT, "stream": stream}
        answer = gateway.http.post("/v1/chat/completions", json=body, headers={"origin": SHOP})
        assert (answer.status_code, may_read(answer)) == (200, True)
        assert "origin" in answer.headers["vary"].lower()
        exposed = answer.headers["access-control-expose-headers"].replace(" ", "").split(",")
        assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)
        assert [name for name in exposed if name.startswith("x-hearken")] == ["x-hearken-feedback-token"]
    assert not may_read(preflight(gateway, OTHER), OTHER)
    for origin in (OTHER, SHOP + ".evil.example", "null"):
        answer = gateway.http.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})
        assert not may_read(answer, origin)


def test_errors_can_be_read_too(start: Start, tmp_path: Path, fake: FakeVllm) -> None:
    limits = Limits(requests_per_minute=4)
    secret = add_key(tmp_path / "keys.json", ["chat"], limits=limits)
    gateway = start(cors_origins=(SHOP,), max_body_bytes=1000)

    def post(content: bytes | None = None, message: str = "hi", **headers: str) -> httpx.Response:
        body = {**CHAT, "messages": [{"role": "user", "content": message}]}
        sent = {"content": content} if content is not None else {"json": body}
        return gateway.http.post("/v1/chat/completions", headers={"origin": SHOP, **JSON, **headers}, **sent)  # type: ignore[arg-type]

    key = bearer(secret)
    answers = {
        401: post(),
        400: post(b"{", **key),
        413: post(b"x" * 2000, **key),
        503: post(message=Trouble.BREAK, **key),
        404: gateway.http.get("/v1/nothing", headers={"origin": SHOP}),
        429: [post(**key), post(**key)][1],
    }
    for status, answer in answers.items():
        assert (answer.status_code, may_read(answer)) == (status, True)
        assert answer.json()["error"]["message"]
    assert answers[429].headers["retry-after"]


def test_every_origin_when_that_is_asked_for(start: Start) -> None:
    gateway = start(cors_origins=("*",))
    assert may_read(preflight(gateway, OTHER), OTHER)


@pytest.mark.parametrize(
    "origin",
    ["shop.example", "https://shop.example/", "https://shop.example/path", "ftp://a", "https://", ""],
)
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        GatewaySettings(data=Path("x"), engines=("http://127.0.0.1:1",), cors_origins=(origin,))


def asks_to_vote(gateway: Gateway, headers: str, path: str = "/v1/feedback") -> httpx.Response:
    sent = {
        "origin": OTHER,
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }
    return gateway.http.options(path, headers=sent)


@pytest.mark.parametrize("listed", [(), (SHOP,)])
def test_votes_with_a_token_are_taken_from_every_page(start: Start, listed: tuple[str, ...]) -> None:
    gateway = start(cors_origins=listed)
    answer = gateway.chat()
    vote = {"kind": "thumbs", "completion_id": answer.json()["id"], "value": "up"}
    token = answer.headers[HEADER]
    for headers in ({HEADER: token}, bearer(token)):
        asked = asks_to_vote(gateway, ",".join(headers) + ",content-type")
        assert (asked.status_code, may_read(asked, OTHER)) == (204, True)
        sent = gateway.http.post("/v1/feedback", json=vote, headers={"origin": OTHER, **headers})
        assert (sent.status_code, may_read(sent, OTHER)) == (202, True)
        receipt = f"/v1/feedback/{sent.json()['id']}"
        assert asks_to_vote(gateway, ",".join(headers), receipt).status_code == 204
        for method in ("GET", "DELETE"):
            done = gateway.http.request(method, receipt, headers={"origin": OTHER, **headers})
            assert (done.status_code, may_read(done, OTHER)) == (200, True)
    bad = gateway.http.post("/v1/feedback", json=vote, headers={"origin": OTHER, HEADER: "fbt_x.y"})
    assert (bad.status_code, may_read(bad, OTHER)) == (401, True)
    beacon = {"origin": OTHER, "content-type": "text/plain", "sec-fetch-site": "cross-site"}
    left = gateway.http.post("/v1/feedback", content=json.dumps(vote | {"token": token}), headers=beacon)
    assert left.status_code == 202


def test_no_page_votes_without_a_token_in_its_visitors_name(start: Start) -> None:
    """What a browser was once allowed to send it may send again with another content."""
    gateway = start(cors_origins=(SHOP,))
    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
    ours = gateway.url
    foreign = (
        {"origin": OTHER},
        {"origin": "null"},
        {"origin": OTHER, **bearer("junk")},
        {"origin": ours, "sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    )
    for headers in foreign:
        for body in (vote, [vote]):
            answer = gateway.http.post("/v1/feedback", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site"), headers
            assert not may_read(answer, headers["origin"])
        assert gateway.http.delete("/v1/feedback/fb-1", headers=headers).status_code == 403
    assert gateway.votes() == []
    for headers in (
        {},
        {"origin": ours},
        {"origin": SHOP},
        {"origin": OTHER, "sec-fetch-site": "same-origin"},
    ):
        assert gateway.http.post("/v1/feedback", json=vote, headers=headers).status_code == 202
    for path, asked in (
        ("/v1/feedback", "content-type"),
        ("/v1/feedback", f"{HEADER},x-other"),
        ("/v1/chat/completions", f"content-type,{HEADER}"),
        ("/feedback", HEADER),
    ):
        refused = asks_to_vote(gateway, asked, path)
        assert (refused.status_code >= 400, may_read(refused, OTHER)) == (True, False), (path, asked)


def test_every_page_may_read_what_reasons_there_are(start: Start, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", ["chat"])
    answer = start(feedback_reasons=("rude", "helpful")).http.get(
        "/v1/feedback-reasons", headers={"origin": OTHER}
    )
    assert answer.json() == {"object": "feedback.reasons", "down": ["rude"], "up": ["helpful"]}
    assert may_read(answer, OTHER)
