"""Two answers to one question: blind, from two arms, each logged."""

import hashlib
import json
import re
from typing import Any

import openai
import pytest

from deploy.history.table import RoutingTable
from tests.serve.conftest import Gateway, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble

TABLE = RoutingTable(
    epoch=1,
    salt="s",
    live="policy-1-aaaaaaaa",
    control="policy-1-aaaaaaaa",
    canary="policy-2-bbbbbbbb",
    weight=0.5,
)
BODY = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def trial(gateway: Gateway, fake: FakeVllm) -> Gateway:
    fake.adapters = {"policy-1-aaaaaaaa", "policy-2-bbbbbbbb"}
    gateway.decide(TABLE)
    eventually(gateway.is_ready, "the adapters are seen")
    return gateway


def test_a_comparison_is_two_completions_of_one_question(trial: Gateway) -> None:
    user = trial.user_of_arm("canary", TABLE)
    answer = trial.http.post("/v1/comparisons", json=BODY | {"user": user})
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("cmp-")
    assert (body["object"], body["model"]) == ("comparison", "hearken")

    events = {event.role: event for event in trial.completions()}
    assert {body["a"]["id"], body["b"]["id"]} == {event.completion_id for event in events.values()}
    assert {event.comparison_id for event in events.values()} == {body["id"]}
    assert (events["answer"].arm, events["answer"].policy_version) == ("canary", TABLE.canary)
    assert (events["reference"].arm, events["reference"].policy_version) == ("live", TABLE.live)
    assert len({event.user for event in events.values()}) == 1
    for side in ("a", "b"):
        completion = openai.types.chat.ChatCompletion.model_validate(body[side])
        assert completion.model == "hearken"
        assert completion.choices[0].logprobs is None
    # Apart from what the models said, nothing tells the sides apart.
    told = re.sub(r'"content":"[^"]*"', "", answer.text)
    assert not re.search(r"canary|live|policy|reference|role\":\"answer", told)


def test_the_sides_are_drawn_at_random(trial: Gateway) -> None:
    user = trial.user_of_arm("canary", TABLE)
    firsts = set()
    for _ in range(40):  # all on one side by chance: 2 in 10^12
        body = trial.http.post("/v1/comparisons", json=BODY | {"user": user}).json()
        firsts.add(trial.completion(body["a"]["id"]).role)
    assert firsts == {"answer", "reference"}


def test_a_seed_becomes_two_seeds_and_the_same_two_again(trial: Gateway, fake: FakeVllm) -> None:
    for _ in range(2):
        trial.http.post("/v1/comparisons", json=BODY | {"seed": 5})
    seeds = [request["seed"] for request in fake.requests]
    assert len(set(seeds)) == 2
    assert sorted(seeds[:2]) == sorted(seeds[2:])
    assert {event.sampling.seed for event in trial.completions()} == set(seeds)


def test_nobody_without_the_secret_can_tell_the_seed_of_a_side(trial: Gateway, fake: FakeVllm) -> None:
    """Or a chat with that seed would give the side's answer again, and so tell whose it is."""
    trial.http.post("/v1/comparisons", json=BODY | {"seed": 5})
    for role, seed in (("answer", 5), ("reference", 5)):
        (sampled,) = [event.sampling.seed for event in trial.completions() if event.role == role]
        said = f"default\0{seed}/{role}"
        assert sampled == int(trial.signer.sign("comparison seed", said)[:8], 16) >> 1
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
            for text in (f"{seed}/{role}", said):
                digest = hashlib.new(name, text.encode()).digest()
                assert sampled != int.from_bytes(digest[:4], "big") >> 1


@pytest.mark.parametrize(("field", "value"), [("store", True), ("n", 2)])
def test_what_a_comparison_cannot_do(gateway: Gateway, field: str, value: object) -> None:
    answer = gateway.http.post("/v1/comparisons", json=BODY | {field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_a_chat_with_two_choices_can_be_a_comparison(trial: Gateway) -> None:
    user = trial.user_of_arm("canary", TABLE)
    answer = trial.openai.chat.completions.create(
        model="hearken",
        messages=[{"role": "user", "content": "hi"}],
        user=user,
        n=2,
        seed=5,
        extra_body={"hearken": {"compare": True}},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    ids = answer.model_extra["hearken"]["comparison"]
    events = {event.completion_id: event for event in trial.completions()}
    assert {ids["a"], ids["b"]} == set(events)
    assert {event.comparison_id for event in events.values()} == {ids["comparison_id"]}
    assert {event.role for event in events.values()} == {"answer", "reference"}
    for side, choice in zip("ab", answer.choices, strict=True):
        assert events[ids[side]].choices[0].text == choice.message.content
    assert answer.usage.completion_tokens == sum(len(e.choices[0].token_ids) for e in events.values())
    vote = {"kind": "comparison", "a": ids["a"], "b": ids["b"], "preferred": "a", "user": user}
    assert trial.http.post("/v1/feedback", json=vote).status_code == 202


@pytest.mark.parametrize(
    ("fields", "param"), [({"n": 1}, "n"), ({}, "n"), ({"n": 2, "stream": True}, "stream")]
)
def test_what_such_a_chat_needs(gateway: Gateway, fields: dict[str, object], param: str) -> None:
    body = BODY | {"hearken": {"compare": True}} | fields
    answer = gateway.http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_errors_are_those_of_a_chat(gateway: Gateway) -> None:
    body = BODY | {"messages": [{"role": "user", "content": Trouble.TOO_LONG}]}
    answer = gateway.http.post("/v1/comparisons", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_its_vote_finds_both_answers(trial: Gateway) -> None:
    body = trial.http.post("/v1/comparisons", json=BODY | {"user": "ada"}).json()
    vote = {"kind": "comparison", "a": body["a"]["id"], "b": body["b"]["id"], "preferred": "b", "user": "ada"}
    assert trial.http.post("/v1/feedback", json=vote).status_code == 202
    (event,) = trial.votes()
    assert {t.completion_id for t in event.targets} == {c.completion_id for c in trial.completions()}


def streamed(gateway: Gateway, **fields: object) -> tuple[list[dict[str, Any]], str]:
    """The events of a comparison that is streamed, without the last, and that."""
    with gateway.http.stream("POST", "/v1/comparisons", json=BODY | {"stream": True} | fields) as answer:
        assert answer.status_code == 200
        told = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in told[:-1]], told[-1]


def test_both_answers_are_streamed_side_by_side_and_blind(trial: Gateway) -> None:
    user = trial.user_of_arm("canary", TABLE)
    events, last = streamed(trial, user=user)
    assert last == "[DONE]"
    head, *rest = events
    assert head["id"].startswith("cmp-")
    assert head["hearken"]["feedback_token"].startswith("fbt_")
    said = {"a": "", "b": ""}
    ended = []
    for event in rest:
        if event.get("ended"):
            ended.append(event["side"])
            continue
        assert event["chunk"]["id"] == head[event["side"]]
        for choice in event["chunk"]["choices"]:
            said[event["side"]] += choice["delta"].get("content") or ""
    assert sorted(ended) == ["a", "b"]
    logged = {completion.completion_id: completion for completion in trial.completions()}
    assert {head["a"], head["b"]} == set(logged)
    assert {completion.comparison_id for completion in logged.values()} == {head["id"]}
    assert {completion.role for completion in logged.values()} == {"answer", "reference"}
    for side in "ab":
        assert said[side] == logged[head[side]].choices[0].text
    told = re.sub(r'"content": "[^"]*"', "", json.dumps(events))
    assert not re.search(r"canary|live|policy|reference", told)
    vote = {"kind": "comparison", "a": head["a"], "b": head["b"], "preferred": "both_bad", "user": user}
    assert trial.http.post("/v1/feedback", json=vote).status_code == 202


def test_a_stream_of_both_that_fails_is_an_error_and_leaves_no_engine_at_work(
    gateway: Gateway, fake: FakeVllm
) -> None:
    body = BODY | {"stream": True, "messages": [{"role": "user", "content": Trouble.TOO_LONG}]}
    early = gateway.http.post("/v1/comparisons", json=body)
    assert (early.status_code, early.json()["error"]["code"]) == (400, "context_length_exceeded")
    events, last = streamed(gateway, messages=[{"role": "user", "content": Trouble.DIE}])
    assert json.loads(last)["error"]["code"]
    assert not [event for event in events if event.get("ended")]
    eventually(lambda: at_work(gateway, fake) == 0, "no request is left")


def at_work(gateway: Gateway, fake: FakeVllm) -> float:
    return gateway.metric(f'hearken_engine_in_flight{{engine="{fake.url}"}}')


def test_a_client_that_leaves_stops_both_answers(gateway: Gateway, fake: FakeVllm) -> None:
    body = BODY | {"stream": True, "messages": [{"role": "user", "content": Trouble.HOLD}]}
    with gateway.http.stream("POST", "/v1/comparisons", json=body) as answer:
        lines = answer.iter_lines()  # the answer is closed with it
        next(lines)
        eventually(lambda: at_work(gateway, fake) == 2, "both are written")
    assert fake.aborted.wait(10)
    eventually(lambda: at_work(gateway, fake) == 0, "no request is left")
