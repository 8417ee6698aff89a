"""Whatever goes wrong, clients get OpenAI's error shape with a status, a code and a sentence."""

import json

import httpx
import openai
import pytest

from serve.http.errors import from_upstream
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble

JSON = {"content-type": "application/json"}
OK = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}


def error_of(answer: httpx.Response) -> dict[str, object]:
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, object] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 3}, "model", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"role": "pirate", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 1000}}, "logit_bias.1", "invalid_value"),
        ({"logit_bias": {"1\n": 1}}, "logit_bias", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}, "stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content", "invalid_type"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"seed": -(2**63) - 1}, "seed", "invalid_value"),
        ({"max_tokens": 2**80}, "max_tokens", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"user": 7}, "user", "invalid_type"),
        ({"user": "x" * 600}, "user", "invalid_value"),
        ({"stop": ["a"] * 65}, "stop", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url",
            "missing_required_parameter",
        ),
        ({"structured_outputs": {"choice": ["a"] * 1001}}, "structured_outputs", "invalid_value"),
        ({"use_beam_search": True, "length_penalty": 1e6}, "length_penalty", "invalid_value"),
    ],
)
def test_bad_fields_are_named(steady: Gateway, change: dict[str, object], param: str, code: str) -> None:
    answer = steady.http.post("/v1/chat/completions", json=OK | change)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b"NaN"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback", "/v1/comparisons"])
def test_bodies_that_are_not_json_objects(steady: Gateway, path: str, body: bytes) -> None:
    answer = steady.http.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["code"] in ("invalid_json", "empty_batch")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/comparisons", "/v1/completions"])
def test_a_body_that_is_nested_too_deeply(steady: Gateway, path: str) -> None:
    body = {"model": "hearken", "prompt": "hi"} if path == "/v1/completions" else OK
    deep: object = 1
    for _ in range(99):
        deep = [deep]
    assert steady.http.post(path, json=body | {"a_field_of_tomorrow": deep}).status_code == 200
    answer = steady.http.post(path, json=body | {"a_field_of_tomorrow": [deep]})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("sent", "message", "told", "param"),
    [
        (["n"], "n must be 1 when using greedy sampling, got 2.", None, "n"),
        (["min_tokens"], "min_tokens must be less than or equal to max_tokens=5.", None, "min_tokens"),
        (["max_completion_tokens"], "max_tokens=9 cannot be", "max_tokens", "max_completion_tokens"),
        (["tools"], "Failed to transform json schema into a grammar: no", None, "tools"),
        (["tools", "response_format"], "Invalid JSON grammar specification.", None, "response_format"),
        (["messages"], "hearken is not a multimodal model", None, "messages"),
        (["messages"], "Unsupported chat content part type: 'file'.", "type", "messages"),
        (["prompt"], "Token id 99999 is out of vocabulary", None, "prompt"),
        (["top_p"], "must be at most 1", "body.top_p", "top_p"),
        (["model"], "nothing that is known", None, None),
    ],
)
def test_a_refusal_names_the_clients_own_field(
    sent: list[str], message: str, told: str | None, param: str | None
) -> None:
    body = json.dumps({"error": {"message": message, "param": told}}).encode()
    error = from_upstream(400, body, "policy-1-c0ffee01", "hearken", sent)
    assert (error.status, error.param, error.message) == (400, param, message)


def test_unknown_models_routes_and_methods(steady: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        steady.openai.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"

    answer = steady.http.get("/v1/nothing")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "unknown_url")
    answer = steady.http.get("/v1/completions")
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("declared", [True, False])
def test_large_bodies_are_refused(start: Start, declared: bool) -> None:
    gateway = start(max_body_bytes=10_000)
    body = b'{"x": "' + b"x" * 20_000 + b'"}'
    content = body if declared else iter([body[:9_000], body[9_000:]])
    answer = gateway.http.post("/v1/chat/completions", content=content, headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


def test_load_balancers_may_look_without_reading(steady: Gateway) -> None:
    for path in ("/livez", "/readyz", "/v1/models", "/v1/models/hearken", "/openapi.json", "/metrics", "/"):
        answer = steady.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_every_answer_has_a_request_id(steady: Gateway) -> None:
    for path in ("/livez", "/v1/nothing", "/", "/metrics"):
        assert steady.http.get(path).headers["x-request-id"].startswith("req_")
    assert steady.chat(stream=True).headers["x-request-id"].startswith("req_")
    assert steady.http.get("/livez", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    strange = steady.http.get("/livez", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert strange.startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
def test_what_vllm_refuses_is_told_in_words(steady: Gateway, stream: bool) -> None:
    answer = steady.chat(Trouble.TOO_LONG, stream=stream)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")

    answer = steady.chat(Trouble.REFUSED, stream=stream)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "top_p")
    assert error["message"] == "top_p: Input should be less than or equal to 1"


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_engine_is_a_503_to_try_again(steady: Gateway, stream: bool) -> None:
    answer = steady.chat(Trouble.BREAK, stream=stream)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "engine_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_an_error_before_the_first_token_is_an_http_error(gateway: Gateway) -> None:
    answer = gateway.chat(Trouble.FAIL_FIRST, stream=True)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "unprocessable_request")
    assert all(event.failure for event in gateway.completions())


@pytest.mark.parametrize(
    ("trouble", "code"), [(Trouble.DIE, "engine_unavailable"), (Trouble.FAIL, "unprocessable_request")]
)
def test_an_error_in_mid_stream_is_an_event_and_the_end(gateway: Gateway, trouble: str, code: str) -> None:
    answer = gateway.chat(trouble, stream=True)
    *events, last = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    assert last["error"]["code"] == code
    assert set(last["error"]) == {"message", "type", "param", "code"}
    (choice,) = gateway.completion(events[0]["id"]).choices
    assert (choice.finish_reason, choice.token_ids) == ("error", [100, 101, 102])

    stream = gateway.openai.chat.completions.create(
        model="hearken", messages=[{"role": "user", "content": trouble}], stream=True
    )
    with pytest.raises(openai.APIError):
        list(stream)


def test_chat_goes_on_when_the_log_cannot_be_written(start: Start, tmp_path_factory: object) -> None:
    gateway = start()
    gateway.log.close()
    for stream in (False, True):
        assert gateway.chat(stream=stream).status_code == 200
    eventually(lambda: gateway.metric("hearken_completions_unlogged_total") == 2, "both are counted")

    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
    answer = gateway.http.post("/v1/feedback", json=vote)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "log_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_models_shows_the_public_name_only(gateway: Gateway, fake: FakeVllm) -> None:
    fake.adapters = {"policy-1-aaaaaaaa"}
    assert [model.id for model in gateway.openai.models.list()] == ["hearken"]
    assert gateway.openai.models.retrieve("hearken").id == "hearken"
    answer = gateway.http.get("/v1/models/policy-1-aaaaaaaa")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


def test_requests_are_counted_by_route_and_code(gateway: Gateway) -> None:
    gateway.chat()
    gateway.http.get("/v1/nothing/invented-by-a-client")
    assert gateway.metric('hearken_requests_total{code="200",route="/v1/chat/completions"}') == 1
    assert gateway.metric('hearken_requests_total{code="404",route="unknown"}') == 1
    assert gateway.metric('hearken_completions_total{arm="live"}') == 1
    assert gateway.metric('hearken_completion_tokens_total{arm="live"}') == 6


def test_what_a_page_may_send_without_asking_is_refused(gateway: Gateway) -> None:
    """Forms, plain texts and bodies without a type: any page can send them to an open service."""
    completion_id = gateway.signer.new_completion_id()
    bodies = {
        "/v1/chat/completions": OK,
        "/v1/completions": {"model": "hearken", "prompt": "hi"},
        "/v1/comparisons": OK,
        "/v1/feedback": {"kind": "thumbs", "completion_id": completion_id, "value": "up"},
        "/feedback": {"metric_name": "resolved", "inference_id": completion_id, "value": True},
        "/v1/chat/completions/chatcmpl-1": {"metadata": {}},
    }
    types = (None, "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded")
    for path, body in bodies.items():
        for content_type in types:
            headers = {} if content_type is None else {"content-type": content_type}
            answer = gateway.http.post(path, content=json.dumps(body), headers=headers)
            assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")
            assert "application/json" in answer.json()["error"]["message"]
            foreign = headers | {"origin": "https://evil.example"}
            assert gateway.http.post(path, content=json.dumps(body), headers=foreign).status_code >= 400
    assert gateway.votes() == []
    assert gateway.completions() == []
