"""The circuit breaker as a table: what opens it, what it takes to close again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.breaker import FAILURES, REST_SECONDS, Breaker, Event

EVENTS: list[Event] = ["ANSWERED", "FAILED", "LOST", "DUE", "PASSED"]


def after(breaker: Breaker, *events: Event, now: float = 0.0) -> Breaker:
    for event in events:
        breaker = breaker.after(event, now)
    return breaker


CLOSED = after(Breaker(), "DUE", "PASSED")


def test_an_engine_is_out_of_use_until_it_has_passed_a_trial() -> None:
    assert Breaker().state == "open"
    assert after(Breaker(), "DUE").state == "half-open"
    assert CLOSED.state == "closed"


def test_one_loss_opens_it_and_errors_do_when_they_come_in_a_row() -> None:
    assert after(CLOSED, "LOST").state == "open"
    failures: list[Event] = ["FAILED"] * FAILURES
    assert after(CLOSED, *failures).state == "open"
    assert after(CLOSED, *failures[1:]).state == "closed"
    assert after(CLOSED, *failures[1:], "ANSWERED", *failures[1:]).state == "closed"


@pytest.mark.parametrize("event", ["FAILED", "LOST"])
def test_a_failed_trial_opens_it_again(event: Event) -> None:
    assert after(Breaker(), "DUE", event).state == "open"


def test_it_rests_longer_each_time_that_no_user_was_answered_between() -> None:
    breaker, now = CLOSED, 1000.0
    for rest in (*REST_SECONDS, REST_SECONDS[-1]):
        breaker = breaker.after("LOST", now)
        assert breaker.until == now + rest
        if rest:
            assert breaker.after("DUE", now + rest - 0.01).state == "open"
        now += rest
        breaker = after(breaker, "DUE", "PASSED", now=now)
        assert breaker.state == "closed"
    answered = breaker.after("ANSWERED", now)
    assert answered.after("LOST", now).until == now + REST_SECONDS[0]


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_users_are_never_the_trial(events: list[Event]) -> None:
    """However things go: closed is reached through PASSED alone, from half-open."""
    before = Breaker()
    for event in events:
        now = before.after(event, 0.0)
        if now.state == "closed" and before.state != "closed":
            assert (before.state, event) == ("half-open", "PASSED")
        if before.state == "open" and now.state != "open":
            assert (event, now.state) == ("DUE", "half-open")
        before = now
