"""What a person asks for once holds: the engine gets a grammar for it, for that person's chats alone."""

import asyncio
import itertools
import random
import string
from pathlib import Path
from typing import Any

import pytest

from serve.auth.windows import WINDOW_SECONDS, LocalWindows
from serve.generation.held import CHARS_PER_MINUTE, Holding
from serve.generation.requests import check_chat
from serve.wishes.grammar import grammar_of
from serve.wishes.holding import MOST_CHARS, grammar_for, is_held
from serve.wishes.reading import form_of
from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_comparisons import BODY, TABLE, trial
from tests.serve.test_preferences import path, put

__all__ = ["trial"]

SURE = "Begin with 'Sure'."


def grammar(fake: FakeVllm, at: int = -1) -> str | None:
    """The grammar that the engine was given in a request."""
    outputs = fake.requests[at].get("structured_outputs")
    return None if outputs is None else str(outputs["grammar"])


def test_answers_of_this_user_are_held_and_nobody_elses(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", SURE)
    gateway.chat(user="ada")
    assert 'root ::= ("Sure")' in str(grammar(fake))
    for other in ({"user": "bob"}, {}, {"user": "ada", "hearken": {"preferences": False}}):
        gateway.chat(**other)
        assert grammar(fake) is None
    gateway.http.delete(path("ada"))
    gateway.chat(user="ada")
    assert grammar(fake) is None


def test_what_no_program_can_read_is_asked_for_and_not_held(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", "Be kind.")
    gateway.chat(user="ada")
    assert "Be kind." in str(fake.requests[-1]["messages"])
    assert grammar(fake) is None


def test_a_list_of_many_words_keeps_no_engine_busy_and_the_rest_of_it_is_held() -> None:
    """An engine compiles a grammar for as long as it is: this one, whole, took six seconds."""
    rng = random.Random(1)
    words = ["".join(rng.choices(string.ascii_lowercase, k=8)) for _ in range(9 * 16)]
    never = ["Never say " + ", ".join(f"'{word}'" for word in words[at::9]) for at in range(9)]
    body = {"messages": [{"role": "user", "content": "hi"}]}

    def held(*entries: str) -> str:
        return grammar_for(entries, body, 500, "always") or ""

    assert len(grammar_of(form_of(never), 500)) > 3 * MOST_CHARS
    assert held(*never) == ""
    assert held(*never, SURE) == held(SURE) != ""
    for few in (never[0], "Use British spelling."):
        assert len(held(SURE)) < len(held(few, SURE)) <= MOST_CHARS


def test_new_lists_of_one_tenant_take_engines_from_nobody() -> None:
    """`bench poison --wishes`: without a bound another tenant's p99 was 36 times its own alone."""
    now = [0.0]
    holding = Holding("always", LocalWindows(now=lambda: now[0]))
    asked = check_chat({"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}, "hearken")

    def held(word: str, tenant: str) -> int:
        """The characters of the grammar for a list with a word that is left out; 0: there is none."""
        entries = ["Use British spelling.", f"Never say '{word}'."]
        return len(asyncio.run(holding.under(asked, entries, tenant)).grammar or "")

    words = ["".join(letters) for letters in itertools.permutations("zqxj")]
    first = [held(word, "loud") for word in words]
    assert sum(first) <= CHARS_PER_MINUTE
    assert 0 in first
    assert held(words[0], "loud") == first[0] > 0  # which engines know by now
    assert held(words[-1], "loud") == 0
    assert held(words[-1], "other") > 0
    now[0] += 2 * WINDOW_SECONDS
    assert held(words[-2], "loud") > 0


def test_the_log_says_that_tokens_were_held_and_are_no_sample_of_the_policy(
    gateway: Gateway, fake: FakeVllm
) -> None:
    """PPO takes a token's logprob for the policy's own, which it is not under a grammar."""
    gateway.chat(user="ada", temperature=1)
    put(gateway, "ada", SURE)
    gateway.chat(user="ada", temperature=1, stream=True)
    before, after = gateway.completions()
    assert (before.sampling.held, before.sampling.is_plain) == (False, True)
    assert (after.sampling.held, after.sampling.is_plain) == (True, False)
    assert "Sure" not in after.sampling.model_dump_json()


def test_both_sides_of_a_comparison_are_held_alike(trial: Gateway, fake: FakeVllm) -> None:
    """So that votes on them are evidence like any other."""
    user = trial.user_of_arm("canary", TABLE)
    put(trial, user, SURE)
    trial.http.post("/v1/comparisons", json=BODY | {"user": user}).raise_for_status()
    assert {request["model"] for request in fake.requests[-2:]} == {TABLE.canary, TABLE.live}
    assert grammar(fake, -1) == grammar(fake, -2) is not None


def test_every_api_of_chats_is_held(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", SURE)
    message = {"role": "user", "content": "hi"}
    claude = {"model": "hearken", "messages": [message], "max_tokens": 9, "metadata": {"user_id": "ada"}}
    for url, body in (
        ("/v1/messages", claude),
        ("/v1/responses", {"model": "hearken", "input": "hi", "user": "ada"}),
    ):
        gateway.http.post(url, json=body).raise_for_status()
        assert grammar(fake) is not None, url
    gateway.http.post("/v1/completions", json={"model": "hearken", "prompt": "hi", "user": "ada"})
    assert grammar(fake) is None


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"tools": [TOOL]},
        {"bad_words": ["no"]},
        {"allowed_token_ids": [1, 2]},
        {"min_tokens": 4},
        {"ignore_eos": True},
        {"add_generation_prompt": False, "continue_final_message": True},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_the_client_says_of_its_answers_comes_first(more: dict[str, Any]) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
    holding = Holding("always", LocalWindows())
    free = asyncio.run(holding.under(check_chat(dict(body), "hearken"), [SURE], "t"))
    assert free.grammar is not None
    held = asyncio.run(holding.under(check_chat(body | more, "hearken"), [SURE], "t"))
    assert held.grammar is None
    assert held.preferences == (SURE,)
    assert not held.sampling.held


def test_stop_and_n_stay_as_the_client_sent_them(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", SURE)
    gateway.chat(user="ada", stop=["\n"], n=2)
    assert (fake.requests[-1]["stop"], fake.requests[-1]["n"]) == (["\n"], 2)
    assert grammar(fake) is not None


def test_a_products_system_message_stays_above_it_unless_the_operator_says_otherwise() -> None:
    user, system = {"role": "user", "content": "hi"}, {"role": "system", "content": "Be a bank."}
    plain, under_system = {"messages": [user]}, {"messages": [system, user]}
    assert [is_held(plain, when) for when in ("without_system", "always", "never")] == [True, True, False]
    held = [is_held(under_system, when) for when in ("without_system", "always", "never")]
    assert held == [False, True, False]
    assert not is_held({"messages": [{"role": "developer", "content": "x"}, user]}, "without_system")


def test_the_setting_turns_it_off(start: Start, tmp_path: Path, fake: FakeVllm) -> None:
    gateway = start(preference_hold="never")
    put(gateway, "ada", SURE)
    gateway.chat(user="ada")
    assert SURE in str(fake.requests[-1]["messages"])
    assert grammar(fake) is None
