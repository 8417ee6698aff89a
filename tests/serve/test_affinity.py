"""Which engine a conversation prefers: stable, spread evenly, and not at any price."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serve.engines.affinity import of_chat, of_prompt, prefer

ENGINES = [f"http://engine-{i}:8000" for i in range(5)]
IDLE = dict.fromkeys(ENGINES, 0)


def conversation(i: int) -> bytes:
    return of_chat([{"role": "user", "content": f"question {i}"}])


def test_later_turns_are_the_same_conversation() -> None:
    opening = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    later = [*opening, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and then?"}]
    assert of_chat(opening) == of_chat(later)
    assert of_chat(opening) != of_chat([opening[0], {"role": "user", "content": "hello!"}])
    assert of_chat(opening) != of_chat([{"role": "system", "content": "be brief"}, opening[1]])
    assert of_chat([opening[0]]) == of_chat([opening[0]])  # no user yet: all that there is


def test_prompts_of_text_and_of_ids_have_a_beginning_too() -> None:
    assert of_prompt("x" * 300 + "a") == of_prompt("x" * 300 + "b")
    assert of_prompt([1, 2, 3]) != of_prompt([1, 2, 4])


def test_conversations_spread_evenly() -> None:
    counts = Counter(prefer(conversation(i), IDLE) for i in range(1000))
    assert set(counts) == set(ENGINES)
    assert max(counts.values()) < 260  # 200 each; five standard deviations are 63


def test_a_lost_engine_moves_only_its_own_conversations() -> None:
    before = {i: prefer(conversation(i), IDLE) for i in range(500)}
    left = dict.fromkeys(ENGINES[1:], 0)
    after = {i: prefer(conversation(i), left) for i in range(500)}
    assert all(after[i] == engine for i, engine in before.items() if engine != ENGINES[0])
    assert len({after[i] for i, engine in before.items() if engine == ENGINES[0]}) == 4


@given(
    st.integers(0, 10**6),
    st.dictionaries(st.sampled_from(ENGINES), st.integers(0, 50), min_size=1),
    st.integers(0, 10),
)
def test_nobody_waits_behind_more_than_the_slack(i: int, in_flight: dict[str, int], slack: int) -> None:
    chosen = prefer(conversation(i), in_flight, slack)
    assert in_flight[chosen] <= min(in_flight.values()) + slack
    if in_flight.get(own := prefer(conversation(i), IDLE), 99) <= min(in_flight.values()) + slack:
        assert chosen == own
