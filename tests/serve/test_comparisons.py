"""Two answers to one question: blind, from two arms, each logged."""

import hashlib
import re

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


@pytest.mark.parametrize(("field", "value"), [("stream", True), ("n", 2)])
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
