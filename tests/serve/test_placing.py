"""Where a turn goes, as pure functions: what a conversation is known by, and how it goes on."""

from typing import Any

import pytest

from deploy.history.table import RoutingTable, assign
from serve.routing.placing import Place, answers_of, draw, go_on, table_versions

LIVE, CANARY = "policy-1-aaaaaaaa", "policy-2-bbbbbbbb"
TABLE = RoutingTable(epoch=5, salt="s", live=LIVE, control=LIVE, canary=CANARY, weight=0.5)
Message = dict[str, Any]


def user(text: object) -> Message:
    return {"role": "user", "content": text}


def said(text: object, *calls: str) -> Message:
    return {"role": "assistant", "content": text, "tool_calls": [{"id": call} for call in calls]}


SYSTEM = {"role": "system", "content": "Be kind."}
TURN_1 = [user("hi"), said("Hello!")]
TURN_2 = [*TURN_1, user("Where is it?"), said("On its way.")]
NEWEST = answers_of(TURN_2)[0]


@pytest.mark.parametrize(
    "again",
    [
        [SYSTEM, *TURN_2],
        [{"role": "developer", "content": "It is noon."}, *TURN_2],
        TURN_2[1:],  # the oldest message was cut off
        [user("hi"), {"role": "assistant", "content": "Hello!", "refusal": None}, *TURN_2[2:]],
        [*TURN_2[:3], said("  On its way.\n")],
        [*TURN_2[:3], said([{"type": "text", "text": "On its "}, {"type": "text", "text": "way."}])],
        [*TURN_2[:2], user([{"type": "text", "text": "Where is it?"}]), said("On its way.")],
        [*TURN_2[:3], said(None, "call-1"), {"role": "tool", "content": "a van"}, said("On its way.")],
    ],
    ids=["system", "developer", "cut off", "more fields", "spaces", "parts", "parts asked", "a tool before"],
)
def test_an_answer_is_known_again_however_clients_repeat_it(again: list[Message]) -> None:
    assert answers_of([*again, user("Thanks")])[0] == NEWEST


@pytest.mark.parametrize(
    "other",
    [
        [user("hi"), said("Hello, you!"), *TURN_2[2:]],
        [*TURN_1, user("Where was it?"), said("On its way.")],
        [*TURN_1, user("Where is it?"), said("Lost.")],
        [*TURN_1, user("Where is it?"), said("On its way.", "call-1")],
        [user("Where is it?"), said("On its way.")],
    ],
    ids=["answer before", "question", "answer", "a call", "no answer before"],
)
def test_another_conversation_is_another(other: list[Message]) -> None:
    assert answers_of(other)[0] != NEWEST


def test_long_texts_are_known_by_their_ends_and_their_length() -> None:
    texts = ["a" * 5000, "a" * 4999 + "b", "b" + "a" * 4999, "a" * 5001]
    assert len({answers_of([user(text), said("Yes.")])[0] for text in texts}) == 4
    (mark,) = answers_of([user("a" * 4_000_000), said("b" * 4_000_000)])
    assert len(mark) < 10_000


def test_words_cannot_be_moved_from_one_message_into_the_next() -> None:
    assert answers_of([user('a","'), said("b")]) != answers_of([user("a"), said('","b')])
    assert answers_of([user("a"), said("x", "1", "2")]) != answers_of([user("a"), said("x", "1,2")])


def test_the_newest_answers_come_first_and_three_at_most() -> None:
    turns = [message for i in range(5) for message in (user(f"q{i}"), said(f"a{i}"))]
    found = answers_of(turns)
    assert found == [answers_of(turns[: 2 * i])[0] for i in (5, 4, 3)]
    assert answers_of([SYSTEM, user("hi")]) == []


def test_who_is_named_is_drawn_by_name_and_else_the_conversation() -> None:
    named = draw(TABLE, "u_1", "c_1")
    assert (named.arm, named.unit, named.drawn) == (assign("u_1", TABLE), None, True)
    unnamed = draw(TABLE, None, "c_1")
    assert (unnamed.arm, unnamed.unit) == (assign("c_1", TABLE), "c_1")
    assert (unnamed.version, unnamed.epoch) == (TABLE.version(unnamed.arm), 5)


def test_half_of_the_conversations_are_in_the_canary() -> None:
    arms = [draw(TABLE, None, f"c_{i}").arm for i in range(1000)]
    assert 450 <= arms.count("canary") <= 550
    assert arms.count("canary") + arms.count("control") == 1000


def test_a_later_turn_is_where_the_first_was_while_its_version_may_serve() -> None:
    known = Place.of_record(Place("canary", CANARY, 5, "c_1").record())
    assert known == Place("canary", CANARY, 5, "c_1", drawn=False)
    later = RoutingTable(epoch=9, salt="t", live="policy-3-cccccccc")
    assert go_on(known, later, {"policy-3-cccccccc", CANARY}) == known
    moved = go_on(known, later, {"policy-3-cccccccc", LIVE})
    assert moved == Place("live", "policy-3-cccccccc", 9, "c_1", drawn=False)


def test_a_table_names_the_versions_that_it_sends_anybody_to() -> None:
    assert table_versions(TABLE) == {LIVE, CANARY}
    assert table_versions(RoutingTable(live=LIVE)) == {LIVE}
