"""The circuit breaker as a table: what opens it, what it takes to close again."""

from hypothesis import given
from hypothesis import strategies as st

from serve.engines.breaker import REST_SECONDS, Breaker, Event

EVENTS: list[Event] = ["ANSWERED", "LOST", "DUE", "PASSED"]


def after(breaker: Breaker, *events: Event, now: float = 0.0) -> Breaker:
    for event in events:
        breaker = breaker.after(event, now)
    return breaker


CLOSED = after(Breaker(), "DUE", "PASSED")


def test_an_engine_is_out_of_use_until_it_has_passed_a_trial() -> None:
    assert Breaker().state == "open"
    assert after(Breaker(), "DUE").state == "half-open"
    assert CLOSED.state == "closed"


def test_one_loss_opens_it() -> None:
    assert after(CLOSED, "LOST").state == "open"
    assert after(CLOSED, "ANSWERED", "LOST", "ANSWERED").state == "open"


def test_a_failed_trial_opens_it_again() -> None:
    assert after(Breaker(), "DUE", "LOST").state == "open"


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
