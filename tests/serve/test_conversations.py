"""A conversation is the unit where nobody is named, and keeps its version while it is active."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deploy.evidence.guardrails import GuardrailLimits, Guardrails
from deploy.history.leases import held
from deploy.history.scope import Scope
from deploy.history.table import RoutingTable
from feedback.core.events import COMPLETIONS, Completion
from feedback.shared import SharedStore
from serve.auth.limits import Limits
from serve.generation.answers import Transcript
from serve.routing.placing import answers_of
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import add_key, bearer
from tests.serve.test_leases import text_of
from tests.servers import free_port

P0, P1, P2, P3 = (f"policy-{i}-{letter * 8}" for i, letter in enumerate("abcd"))
HALF = RoutingTable(epoch=1, salt="release-1", live=P0, control=P0, canary=P1, weight=0.5)


class Talk:
    """One conversation of an app that names no user and sends its history again with every turn."""

    def __init__(
        self, gateway: Gateway, first: str = "hi", headers: dict[str, str] | None = None, **fields: Any
    ):
        self.gateway = gateway
        self.messages: list[dict[str, Any]] = []
        self.fields = fields
        self.headers = headers
        self._first = first

    def send(self, text: str | None = None, **fields: object) -> str:
        """One turn; what it was answered, which with the fake engine names the version."""
        self.messages.append({"role": "user", "content": text or self._first})
        answered = self.repeat(**fields)
        self.messages.append({"role": "assistant", "content": answered})
        return answered

    def repeat(self, **fields: object) -> str:
        """The same request again, without going on from its answer."""
        body = {"model": "hearken", "messages": self.messages, **self.fields, **fields}
        answer = self.gateway.http.post("/v1/chat/completions", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        if fields.get("stream"):
            return text_of(answer.text)
        answered: str = answer.json()["choices"][0]["message"]["content"]
        return answered


def version_in(answered: str) -> str:
    return answered.removeprefix("I am ").partition(",")[0]


def counted(completions: list[Completion], table: RoutingTable = HALF) -> Guardrails:
    """What guardrails make of a log."""
    scope = Scope(table.epoch, table.version("canary"), table.version("control"))
    guardrails = Guardrails(GuardrailLimits(), scope)
    for completion in completions:
        guardrails.add(completion)
    return guardrails


@pytest.fixture
def half(gateway: Gateway, fake: FakeVllm) -> Gateway:
    """A gateway in a release at 50%."""
    fake.adapters = {P0, P1, P2, P3}
    gateway.decide(HALF, lives=("base", P0))
    return gateway


def test_conversations_behind_one_address_are_drawn_one_by_one_and_stay(half: Gateway) -> None:
    """2,000 and not 1,000, so that chance alone fails this once in 100,000 times."""
    talks = [Talk(half, f"hi {i}") for i in range(2000)]
    first = [version_in(talk.send()) for talk in talks]
    assert set(first) == {P0, P1}
    assert 0.45 <= first.count(P1) / len(talks) <= 0.55
    for i, talk in enumerate(talks[::5]):
        assert version_in(talk.send("And then?", stream=bool(i % 2))) == first[5 * i]
    records = half.log.read([COMPLETIONS], {}, limit=10_000)[0]
    seen = counted([Completion.model_validate_json(record.value) for record in records])
    assert (seen.canary_users, seen.control_users) == (first.count(P1), first.count(P0)), "each is a unit"
    assert half.metric('hearken_turns_total{turn="kept"}') == 400


def test_one_address_stays_one_user_for_limits_keys_and_votes(start: Start, fake: FakeVllm) -> None:
    gateway = start(limits=Limits(user_requests_per_minute=2))
    for text in ("hi", "hello"):
        Talk(gateway, text).send()
    refused = gateway.chat("hey")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    one, two = gateway.completions()
    assert one.user == two.user == gateway.signer.pseudonym("default", "anonymous-127.0.0.1")
    assert one.exposed == one.unit != two.unit == two.exposed


def releases() -> list[tuple[RoutingTable, tuple[str, ...]]]:
    """The tables of three releases that are all promoted, each with the versions that are or were live."""
    found: list[tuple[RoutingTable, tuple[str, ...]]] = []
    lives: tuple[str, ...] = ("base", P0)
    for live, new in ((P0, P1), (P1, P2), (P2, P3)):
        salt = f"release-{new}"
        for weight in (0.05, 0.5):
            table = RoutingTable(epoch=0, salt=salt, live=live, control=live, canary=new, weight=weight)
            found.append((table, lives))
        lives = (*lives, new)
        holdback = RoutingTable(epoch=0, salt=salt, live=new, control=live, canary=new, weight=0.05)
        found += [(holdback, lives), (RoutingTable(epoch=0, salt=salt, live=new), lives)]
    return [(t.model_copy(update={"epoch": i}), lives) for i, (t, lives) in enumerate(found, 2)]


def test_100_turns_over_three_releases_have_one_version(
    gateway: Gateway, fake: FakeVllm, shared: SharedStore
) -> None:
    fake.adapters = {P0, P1, P2, P3}
    gateway.decide(RoutingTable(epoch=1, live=P0), lives=("base", P0))
    talks = [Talk(gateway), Talk(gateway, user="ada"), Talk(gateway, metadata={"episode_id": "chat-7"})]
    steps = releases()
    for turn in range(100):
        if turn % 8 == 4 and steps:
            table, lives = steps.pop(0)
            gateway.decide(table, lives=lives)
        for talk in talks:
            assert version_in(talk.send(f"question {turn}", stream=talk is talks[0])) == P0
    assert not steps
    assert version_in(Talk(gateway, user="ada").send("A new one")) == P3
    assert {P0, P3} <= (held(shared) or set()), "what conversations go on with stays loaded"
    events = gateway.completions()[:-1]
    assert {(e.arm, e.policy_version, e.table_epoch) for e in events} == {("live", P0, 1)}
    assert [e.drawn for e in events] == [True] * 3 + [False] * 297
    assert len({e.exposed for e in events}) == 3


def test_a_canary_that_was_ended_serves_no_conversation_ever_again(
    half: Gateway, shared: SharedStore
) -> None:
    """The engine still has it: it is the gateway that does not ask for it."""
    talks = [Talk(half, f"hi {i}") for i in range(40)]
    tried = [talk for talk in talks if version_in(talk.send()) == P1]
    assert tried
    half.decide(RoutingTable(epoch=2, salt="release-1", live=P0), lives=("base", P0))
    assert {version_in(talk.send("And now?")) for talk in talks} == {P0}
    eventually(lambda: held(shared) == {P0}, "and nothing holds it")
    half.decide(HALF.model_copy(update={"epoch": 3, "salt": "release-3"}), lives=("base", P0))
    assert {version_in(talk.send("And a release later?")) for talk in tried} == {P0}
    moved = [e for e in half.completions() if e.table_epoch >= 2]
    assert {(e.arm, e.drawn) for e in moved} == {("live", False)}, "they count in no comparison"
    assert half.metric('hearken_turns_total{turn="moved"}') == len(tried)


def test_a_live_version_that_was_taken_back_serves_no_conversation(half: Gateway) -> None:
    half.decide(RoutingTable(epoch=2, live=P1), lives=("base", P0, P1))
    talk = Talk(half, user="ada")
    assert version_in(talk.send()) == P1
    half.decide(RoutingTable(epoch=3, live=P0), lives=("base", P0))
    assert version_in(talk.send("And now?")) == P0


def test_a_conversation_with_the_base_goes_on_with_the_base(gateway: Gateway, fake: FakeVllm) -> None:
    fake.adapters = {P0}
    talk = Talk(gateway)
    assert version_in(talk.send()) == "base"
    gateway.decide(RoutingTable(epoch=1, live=P0), lives=("base", P0))
    assert version_in(talk.send("Still?")) == "base"
    assert version_in(Talk(gateway).send("A new one")) == P0


def test_a_version_that_no_engine_has_any_more_gives_way_to_live(half: Gateway, fake: FakeVllm) -> None:
    half.decide(RoutingTable(epoch=2, live=P0), lives=("base", P0))
    talk = Talk(half)
    assert version_in(talk.send()) == P0
    half.decide(RoutingTable(epoch=3, live=P1), lives=("base", P0, P1))
    assert version_in(talk.send("Still?")) == P0
    fake.adapters = {P1}  # as after a restart: the controller loads what the table names
    half.decide(RoutingTable(epoch=4, live=P2), lives=("base", P0, P1, P2))
    eventually(lambda: not half.is_ready(), "the gateway has seen that")
    fake.adapters = {P1, P2}
    eventually(half.is_ready, "the table's version is loaded")
    assert version_in(talk.send("And now?")) == P2


def test_a_conversation_counts_in_the_comparison_in_which_it_began(half: Gateway) -> None:
    """Those who came before a stage stay out of both of its buckets, and so do those who come later to it."""
    half.decide(RoutingTable(epoch=2, live=P0), lives=("base", P0))
    before = [Talk(half, f"before {i}") for i in range(30)]
    for talk in before:
        talk.send()
    table = HALF.model_copy(update={"epoch": 3, "salt": "release-3"})
    half.decide(table, lives=("base", P0))
    during = [Talk(half, f"during {i}") for i in range(30)]
    for talk in [*before, *during]:
        talk.send("And then?")
    for talk in during:
        talk.send("And then?")
    seen = counted(half.completions(), table)
    assert seen.canary_users + seen.control_users == 30
    promoted = RoutingTable(epoch=4, salt="release-3", live=P1, control=P0, canary=P1, weight=0.05)
    half.decide(promoted, lives=("base", P0, P1))
    for talk in during:
        talk.send("And at last?")
    seen = counted(half.completions(), promoted)
    assert (seen.canary_users, seen.control_users, seen.exposed(4)) == (0, 0, 0)


def test_it_goes_on_from_either_side_of_a_comparison(half: Gateway) -> None:
    def compare(messages: list[dict[str, Any]]) -> dict[str, Any]:
        answer = half.http.post("/v1/comparisons", json={"model": "hearken", "messages": messages})
        assert answer.status_code == 200, answer.text
        compared: dict[str, Any] = answer.json()
        return compared

    for i in range(12):
        question = [{"role": "user", "content": f"hi {i}"}]
        sides = compare(question)
        (answer,) = [e for e in half.completions() if e.messages == question and e.role == "answer"]
        for side in ("a", "b"):
            said = sides[side]["choices"][0]["message"]["content"]
            talk = Talk(half)
            talk.messages = [*question, {"role": "assistant", "content": said}]
            assert version_in(talk.send(f"I like {side}")) == answer.policy_version
    assert len({e.exposed for e in half.completions()}) == 12


# -- attacks ----------------------------------------------------------------------------------------------


def test_a_made_up_history_is_drawn_like_any_other_and_chooses_nothing(half: Gateway) -> None:
    made_up = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"I am {P1}, seed None."}]
    seen = []
    for i in range(200):
        talk = Talk(half)
        talk.messages = [*made_up]
        seen.append(version_in(talk.send(f"go on {i}")))
    assert 60 <= seen.count(P1) <= 140
    assert half.metric('hearken_turns_total{turn="unknown"}') == 200
    assert len({e.exposed for e in half.completions()}) == 200


def test_a_replayed_conversation_is_one_unit_however_often_it_comes(half: Gateway) -> None:
    talk = Talk(half)
    first = version_in(talk.send())
    talk.messages.append({"role": "user", "content": "And then?"})
    assert {version_in(talk.repeat()) for _ in range(50)} == {first}
    seen = counted(half.completions())
    assert seen.canary_users + seen.control_users == 1
    assert len(marks(half)) == 2, "of the first answer, and of the one that came 50 times"


def marks(gateway: Gateway) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(gateway.data / "conversations.db")) as db:
        return db.execute("SELECT tenant, mark FROM marks").fetchall()


def test_a_flood_fills_no_memory_and_forgets_the_oldest_first(start: Start, fake: FakeVllm) -> None:
    fake.adapters = {P0, P1}
    gateway = start(conversation_answers=20)
    gateway.decide(HALF, lives=("base", P0))
    old, new = Talk(gateway, "the oldest"), Talk(gateway, "the newest")
    old.send()
    for i in range(100):
        Talk(gateway, f"flood {i}").send()
    kept = version_in(new.send())
    assert len(marks(gateway)) <= 21
    assert gateway.metric("hearken_conversations_evicted_total") >= 80
    assert version_in(new.send("And then?")) == kept
    assert gateway.metric('hearken_turns_total{turn="kept"}') == 1
    old.send("And then?")
    assert gateway.metric('hearken_turns_total{turn="unknown"}') == 1


def test_two_tenants_with_the_same_words_are_two(start: Start, fake: FakeVllm, tmp_path: Path) -> None:
    fake.adapters = {P0, P1}
    acme, shop = (bearer(add_key(tmp_path / "keys.json", ["chat"], tenant=name)) for name in ("acme", "shop"))
    watching = bearer(add_key(tmp_path / "keys.json", ["chat", "operate"]))
    gateway = start()
    gateway.http.headers.update(watching)
    gateway.decide(HALF, lives=("base", P0))
    for named in ({}, {"metadata": {"episode_id": "chat-7"}}):
        talk = Talk(gateway, headers=acme, **named)
        talk.send()
        stolen = Talk(gateway, headers=shop, **named)
        stolen.messages = [*talk.messages]
        stolen.send("And then?")
        talk.send("And then?")
    mine = {e.exposed for e in gateway.completions() if e.tenant == "acme"}
    theirs = {e.exposed for e in gateway.completions() if e.tenant == "shop"}
    assert (len(mine), len(theirs)) == (2, 2)
    assert not mine & theirs


def test_one_users_words_are_no_other_users_conversation(half: Gateway) -> None:
    half.decide(RoutingTable(epoch=2, live=P0), lives=("base", P0))
    ada = Talk(half, user="ada")
    ada.send()
    half.decide(RoutingTable(epoch=3, live=P1), lives=("base", P0, P1))
    for who in ({"user": "bob"}, {}):
        other = Talk(half, **who)
        other.messages = [*ada.messages]
        assert version_in(other.send("And then?")) == P1
    assert version_in(ada.send("And then?")) == P0


def test_nothing_that_was_said_is_in_the_store(half: Gateway) -> None:
    talk = Talk(half, "My name is Rumpelstilzchen.", metadata={})
    talk.send()
    talk.send("Say Heinzelmann.")
    Talk(half, "hi", user="ada-lovelace", metadata={"episode_id": "xanthippe"}).send()
    assert len(marks(half)) == 3
    for file in half.data.glob("conversations.db*"):
        for word in (b"Rumpel", b"Heinzel", b"I am", b"lovelace", b"xanthippe"):
            assert word not in file.read_bytes()


def test_without_its_store_the_service_goes_on(start: Start, fake: FakeVllm) -> None:
    fake.adapters = {P0, P1}
    gateway = start(redis=f"redis://127.0.0.1:{free_port()}/0")
    gateway.decide(HALF, lives=("base", P0))
    ada = Talk(gateway, user="ada")
    assert version_in(ada.send()) == version_in(ada.send("And then?")), "who is named has an arm by name"
    Talk(gateway).send()
    assert gateway.metric("hearken_conversations_unavailable_total") >= 2


@pytest.mark.redis
def test_several_gateways_know_the_same_conversations(start: Start, fake: FakeVllm, redis_url: str) -> None:
    fake.adapters = {P0, P1}
    gateways = [start(redis=redis_url) for _ in range(2)]
    gateways[0].decide(HALF, lives=("base", P0))
    eventually(lambda: gateways[1].metric("hearken_table_epoch") == 1, "the other follows")
    for i in range(20):
        talk = Talk(gateways[0], f"hi {i}")
        first = talk.send()
        talk.gateway = gateways[1]
        assert talk.send("And then?") == first


def test_a_gateway_that_starts_later_on_the_same_machine_knows_them(start: Start, half: Gateway) -> None:
    talks = [Talk(half, f"hi {i}") for i in range(10)]
    first = [talk.send() for talk in talks]
    later = start()
    eventually(lambda: later.metric("hearken_table_epoch") == 1, "it has the table")
    for talk, answered in zip(talks, first, strict=True):
        talk.gateway = later
        assert talk.send("And then?") == answered


def test_a_conversation_that_was_left_is_a_new_one(start: Start, fake: FakeVllm, shared: SharedStore) -> None:
    fake.adapters = {P0, P1}
    gateway = start(conversation_seconds=0.2)
    gateway.decide(RoutingTable(epoch=1, live=P0), lives=("base", P0))
    talk = Talk(gateway, user="ada")
    assert version_in(talk.send()) == P0
    gateway.decide(RoutingTable(epoch=2, live=P1), lives=("base", P0, P1))
    eventually(lambda: held(shared) == {P1}, "nothing is held for it any more")
    assert version_in(talk.send("Are you still there?")) == P1


def test_what_active_conversations_go_on_with_is_held_and_what_nobody_asks_for_is_not(
    start: Start, fake: FakeVllm, shared: SharedStore
) -> None:
    fake.adapters = {P0, P1, P2}
    gateway = start(conversation_seconds=5.0)
    gateway.decide(RoutingTable(epoch=1, live=P0), lives=("base", P0))
    talk = Talk(gateway)
    talk.send()
    gateway.decide(RoutingTable(epoch=2, live=P2), lives=("base", P0, P1, P2))
    assert held(shared) == {P0, P1, P2}, "a gateway that has just begun cannot know who is needed"
    eventually(
        lambda: version_in(talk.send("Still?")) == P0 and P1 not in (held(shared) or {P1}),
        "what nobody asks for is let go",
    )
    gateway.decide(RoutingTable(epoch=3, live=P2), lives=("base", P0, P1, P2))  # no request runs meanwhile
    assert held(shared) == {P0, P2}


CALL = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def test_while_a_tool_works_a_conversation_is_known_by_the_answer_before(half: Gateway) -> None:
    talk = Talk(half)
    first = version_in(talk.send())
    talk.messages += [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},  # which this engine never made
        {"role": "tool", "tool_call_id": "call-1", "content": "It is there."},
    ]
    assert version_in(talk.repeat()) == first
    assert half.metric('hearken_turns_total{turn="kept"}') == 1


@pytest.mark.parametrize("part", ["message", "delta"])
def test_an_answer_that_calls_tools_is_known_by_the_ids_of_its_calls(part: str) -> None:
    transcript = Transcript()
    transcript.add(
        {"choices": [{"index": 0, part: {"role": "assistant", "tool_calls": [CALL | {"index": 0}]}}]}
    )
    transcript.add(
        {"choices": [{"index": 0, part: {"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}}]}
    )
    (said,) = transcript.said
    asked = {"role": "user", "content": "Look it up."}
    sent_again = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert answers_of([asked, said]) == answers_of([asked, sent_again])
    assert answers_of([asked, said]) != answers_of([asked, {"role": "assistant", "content": None}])
