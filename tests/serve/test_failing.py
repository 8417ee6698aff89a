"""Requests that get no answer: each is in the log, of its arm, with a word for why and without its texts."""

import asyncio

import pytest

from deploy.evidence.recent import answer_of
from feedback.core.events import COMPLETIONS, Completion
from feedback.joining.join import Joiner
from serve.engines.failing import failure_of
from serve.engines.upstream import EngineLost, Failed, PolicyMissing, Refused
from serve.http.errors import BadRequest, ClientGone, engine_unavailable, overloaded
from tests.serve.conftest import Gateway, ask_and_leave, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble


def failures(gateway: Gateway) -> list[Completion]:
    return [event for event in gateway.completions() if event.failure is not None]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (Failed(500, b""), "engine"),
        (Failed(502, b"no JSON"), "engine"),
        (EngineLost("gone"), "lost"),
        (PolicyMissing(404, b""), "missing"),
        (Refused(400, b""), None),
        (Refused(429, b""), "overloaded"),
        (overloaded(), "overloaded"),
        (engine_unavailable(), "overloaded"),
        (BadRequest("no"), None),
        (ClientGone(), "abandoned"),
        (asyncio.CancelledError(), "abandoned"),
        (KeyError("choices"), "internal"),
        (KeyboardInterrupt(), None),
    ],
)
def test_the_word_for_an_error(error: BaseException, word: str | None) -> None:
    assert failure_of(error) == word


def test_an_error_that_a_client_hears_is_named_after_its_cause() -> None:
    told = engine_unavailable()
    told.__cause__ = EngineLost("gone")
    assert failure_of(told) == "lost"
    blamed = BadRequest("unprocessable")
    blamed.__cause__ = Failed(500, b"")
    assert failure_of(blamed) == "engine", "whoever is to blame, the arm gave no answer"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("trouble", "word"),
    [(Trouble.CRASH, "engine"), (Trouble.BREAK, "overloaded"), (f"{Trouble.STATUS}429", "overloaded")],
)
def test_a_request_that_fails_is_logged_without_a_word_of_it(
    gateway: Gateway, trouble: str, word: str, stream: bool
) -> None:
    assert not gateway.chat(trouble, stream=stream, user="ada").is_success
    eventually(lambda: failures(gateway), "the failure is logged")
    (event,) = failures(gateway)
    assert (event.failure, event.arm, event.policy_version) == (word, "live", "base")
    assert event.user == gateway.signer.pseudonym("default", "ada")
    assert (event.messages, event.prompt_token_ids, event.choices, event.sealed) == ([], [], [], None)
    assert gateway.metric(f'hearken_requests_failed_total{{arm="live",failure="{word}"}}') == 1
    assert answer_of(event).failed
    joiner = Joiner()
    assert joiner.feed(gateway.records(COMPLETIONS)) == []
    assert joiner.poison == 0


def test_a_stream_that_fails_at_once_and_one_that_fails_later_are_failures(gateway: Gateway) -> None:
    gateway.chat(Trouble.FAIL_FIRST, stream=True)
    eventually(lambda: len(gateway.completions()) == 1, "the first is logged")
    gateway.chat(Trouble.FAIL, stream=True)
    eventually(lambda: len(gateway.completions()) == 2, "the second is logged")
    first, later = gateway.completions()
    assert (first.failure, first.choices) == ("engine", [])
    assert (later.failure, later.choices[0].finish_reason) == (None, "error")
    assert answer_of(first).failed
    assert answer_of(later).failed


def test_who_leaves_before_an_answer_is_a_failure_as_well(gateway: Gateway, fake: FakeVllm) -> None:
    ask_and_leave(gateway, Trouble.HOLD, fake.holding.is_set, "the engine works on it")
    eventually(lambda: failures(gateway), "the failure is logged")
    assert [event.failure for event in failures(gateway)] == ["abandoned"]


def test_what_the_client_did_wrong_is_no_failure(gateway: Gateway) -> None:
    assert gateway.chat(Trouble.REFUSED).status_code == 400
    assert gateway.chat("hi", temperature="hot").status_code == 400
    assert gateway.chat("hi").is_success
    (event,) = gateway.completions()
    assert event.failure is None
