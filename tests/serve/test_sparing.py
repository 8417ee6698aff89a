"""Chats of which few show two answers: those that teach most, and a share that chance chooses."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from deploy.evidence.voting import opinion
from deploy.history.scope import Scope
from deploy.history.table import RoutingTable
from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog, Place, Record
from feedback.joining.join import Joiner, Label
from feedback.shared import SharedStore
from feedback.updates import steps
from feedback.updates.teaching import NOTHING_KNOWN, Teaching, entry
from serve.completions.sparing import SLICE, WINDOW, HintReader, Sparing
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, eventually, serving
from tests.serve.fake_vllm import FakeVllm, Trouble

LIVE, CANARY = "policy-1-aaaaaaaa", "policy-2-bbbbbbbb"
SCOPE = Scope(first_epoch=1, canary=CANARY, control=LIVE)
TABLE = RoutingTable(epoch=1, salt="s", live=LIVE, control=LIVE, canary=CANARY, weight=0.3)


def pair(rng: random.Random) -> tuple[list[int], list[int]]:
    """Two answers that differ by so much as chance has it."""
    return [rng.randrange(1000) for _ in range(rng.randint(1, 40))], [5]


def test_as_many_are_shown_as_are_to_be_and_so_many_of_them_by_chance() -> None:
    rng, count = random.Random(1), Counter[str]()
    sparing = Sparing(0.1, 0.25, random.Random(2))
    for _ in range(20_000):
        plan = sparing.plan("live")
        if plan == "by chance" or (plan == "by gain" and sparing.shows(*pair(rng))):
            count[plan] += 1
    assert 1700 < count.total() < 2300  # 2,000
    assert 0.2 < count["by chance"] / count.total() < 0.3


def test_shown_are_those_that_teach_most() -> None:
    rng, sparing = random.Random(1), Sparing(0.1, 0.0, random.Random(2))
    shown, kept = [], []
    for _ in range(2000):
        a, b = pair(rng)
        gain = sparing.teaching.gain_nats(a, b)
        (shown if sparing.shows(a, b) else kept).append(gain)
    assert min(sorted(shown)[10:]) > sorted(kept)[len(kept) // 2]  # what was shown teaches less afterwards
    assert sum(shown) / len(shown) > 1.3 * sum(kept) / len(kept)


def test_users_who_try_a_release_are_chosen_by_chance_alone() -> None:
    sparing = Sparing(0.1, 0.25, random.Random(3))
    for arm in ("canary", "control", "anchor"):
        plans = Counter(sparing.plan(arm) for _ in range(5000))
        assert plans["by gain"] == 0
        assert 400 < plans["by chance"] < 600
    assert Counter(sparing.plan("live") for _ in range(5000))["alone"] == 0


@pytest.mark.parametrize(
    ("share", "by_chance", "plans"),
    [(0.0, 0.5, {"alone"}), (1.0, 1.0, {"by chance"}), (0.5, 1.0, {"by chance", "alone"})],
)
def test_the_ends_of_both_shares(share: float, by_chance: float, plans: set[str]) -> None:
    sparing = Sparing(share, by_chance, random.Random(4))
    assert {sparing.plan("live") for _ in range(200)} == plans


def test_equal_answers_are_never_shown_and_with_a_share_of_1_all_others_are() -> None:
    sparing = Sparing(1.0, 0.0)
    rng = random.Random(5)
    assert all(sparing.shows(*pair(rng)) for _ in range(50))
    assert not sparing.shows([1, 2], [2, 1])


def test_a_new_hint_is_a_new_measure() -> None:
    sparing = Sparing(0.2, 0.0)
    for number in range(WINDOW):
        sparing.shows([number, *range(2000, 2040)], [5])
    known = Teaching(NOTHING_KNOWN.model_copy(update={"prior": 1e-6, "length": (0.0, 1e-6)}))
    sparing.take(known)
    assert not any(sparing.shows([1], [6]) for _ in range(4))  # of four chats the few are none
    assert sparing.shows([1, 2, 3, 4, 7], [6])  # less than any before the hint, and more than all since


@pytest.fixture
def gateway(tmp_path: Path, fake: FakeVllm, log: EventLog, shared: SharedStore) -> Iterator[Gateway]:
    shares = {"compare_share": 0.6, "compare_random_share": 0.5}
    with serving(tmp_path, log, shared, (fake.url,), **shares) as running:
        fake.adapters = {LIVE, CANARY}
        running.decide(TABLE)
        eventually(running.is_ready, "the adapters are seen")
        yield running


def joined(gateway: Gateway) -> list[Label]:
    """The votes in the log, with what they are about."""
    return Joiner().feed([*gateway.records(COMPLETIONS), *gateway.records(FEEDBACK)])


def chats(gateway: Gateway, user: str, count: int) -> list[dict[str, Any]]:
    """Answers to so many sparing chats of a user."""
    body = {"n": 2, "hearken": {"compare_sparingly": True}, "user": user}
    answers = [gateway.chat(Trouble.RAMBLE, seed=seed, **body) for seed in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


def test_some_chats_show_two_answers_and_only_those_by_chance_are_evidence(gateway: Gateway) -> None:
    user = gateway.user_of_arm("live", TABLE)
    answers = chats(gateway, user, 80)
    both = [answer for answer in answers if len(answer["choices"]) == 2]
    assert 20 <= len(both) <= 76  # of 80; 48 by the setting
    events = {event.completion_id: event for event in gateway.completions()}
    kinds = Counter[bool]()
    for answer in answers:
        if answer in both:
            ids = answer["hearken"]["comparison"]
            sides = events[ids["a"]], events[ids["b"]]
            assert {side.comparison_id for side in sides} == {ids["comparison_id"]}
            assert sides[0].selected == sides[1].selected
            kinds[sides[0].selected] += 1
            vote = {"kind": "comparison", "a": ids["a"], "b": ids["b"], "preferred": "a", "user": user}
        else:
            assert "comparison" not in answer["hearken"]
            assert answer["hearken"]["feedback_token"]
            event = events[answer["id"]]
            assert (event.role, event.selected) == ("answer", True)
            assert answer["choices"][0]["message"]["content"] == event.choices[0].text
            vote = {"kind": "thumbs", "completion_id": answer["id"], "value": "up", "user": user}
        assert gateway.http.post("/v1/feedback", json=vote).status_code == 202
    assert set(kinds) == {True, False}
    shown = {"one": len(answers) - len(both), "by gain": kinds[True], "by chance": kinds[False]}
    for what, count in shown.items():
        assert gateway.metric(f'hearken_sparing_chats_total{{shown="{what}"}}') == count
    labels = joined(gateway)
    assert len(labels) == len(answers)
    assert sum(label.answers[0].selected for label in labels) == len(answers) - kinds[False]
    thumbs = [label for label in labels if label.kind == "thumbs"]
    unmarked = [replace(each, answers=(replace(each.answers[0], selected=False),)) for each in thumbs]
    assert not any(opinion(each, SCOPE) for each in thumbs)
    assert all(opinion(each, SCOPE) for each in unmarked)  # by nothing but the mark


def test_in_a_releases_buckets_answers_are_shown_by_chance_and_count(gateway: Gateway) -> None:
    user = gateway.user_of_arm("canary", TABLE)
    answers = chats(gateway, user, 60)
    assert {len(answer["choices"]) for answer in answers} == {1, 2}
    events = gateway.completions()
    assert not any(event.selected for event in events)
    lone = [event for event in events if event.comparison_id is None]
    assert len(lone) == sum(len(answer["choices"]) == 1 for answer in answers)  # and no answer for nobody
    for answer in answers:
        if ids := answer["hearken"].get("comparison"):
            vote = {"kind": "comparison", "a": ids["a"], "b": ids["b"], "preferred": "a", "user": user}
            assert gateway.http.post("/v1/feedback", json=vote).status_code == 202
    assert all(opinion(label, SCOPE) for label in joined(gateway))


class Waited(Sparing):
    """One that tells when it takes something up."""

    def __init__(self) -> None:
        super().__init__(0.1, 0.25)
        self.taken = asyncio.Event()

    def take(self, teaching: Teaching) -> None:
        super().take(teaching)
        self.taken.set()


def test_the_newest_hint_in_the_log_counts(log: EventLog) -> None:
    other = steps.entry(steps.step_record(1, 2.0, None, 3))
    hints = [NOTHING_KNOWN.model_copy(update={"prior": prior}) for prior in (1.0, 2.0, 3.0)]
    gains = [Teaching(hint).gain_nats([1], [2]) for hint in hints]
    log.append([entry(hints[0]), entry(hints[1]), other]).result()

    async def follow() -> None:
        sparing = Waited()
        reader = HintReader(log, sparing)
        following = asyncio.create_task(reader.follow())
        reader.want()
        for newest in gains[1:]:
            await asyncio.wait_for(sparing.taken.wait(), 30)
            assert sparing.teaching.gain_nats([1], [2]) == newest
            sparing.taken.clear()
            log.append([entry(hints[2])])
        following.cancel()

    asyncio.run(follow())


class Watched:
    """A log that notes which offsets were asked of it."""

    def __init__(self, log: EventLog) -> None:
        self._log, self.asked = log, set[int]()
        self.is_at_start = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, *arguments: Any) -> tuple[list[Record], dict[str, int]]:
        records, after = self._log.read(*arguments)
        self.asked |= {record.offset for record in records}
        return records, after

    def fetch(self, places: Sequence[Place], wait_seconds: float) -> list[Record | None]:
        self.asked |= {place.offset for place in places}
        if 0 in self.asked:
            self.is_at_start.set()
        return self._log.fetch(places, wait_seconds)


@pytest.mark.parametrize("has_hint", [True, False])
def test_the_newest_hint_is_found_from_the_end(log: EventLog, has_hint: bool) -> None:
    other = steps.entry(steps.step_record(1, 2.0, None, 3))
    hints = [NOTHING_KNOWN.model_copy(update={"prior": prior}) for prior in (1.0, 2.0, 3.0)]
    gains = [Teaching(hint).gain_nats([1], [2]) for hint in hints[1:]]
    old, new, newer = map(entry, hints)
    some = [old, new] if has_hint else [other, other]
    log.append([other] * 2 * SLICE + some + [other] * 2 * SLICE).result()

    watched = Watched(log)

    async def follow() -> None:
        sparing = Waited()
        reader = HintReader(cast(EventLog, watched), sparing)
        following = asyncio.create_task(reader.follow())
        reader.want()
        if has_hint:
            await asyncio.wait_for(sparing.taken.wait(), 30)
            assert sparing.teaching.gain_nats([1], [2]) == gains[0]
            sparing.taken.clear()
        else:  # a hint that comes before that is found on the way
            assert await asyncio.to_thread(watched.is_at_start.wait, 30)
        log.append([newer])
        await asyncio.wait_for(sparing.taken.wait(), 30)
        assert sparing.teaching.gain_nats([1], [2]) == gains[1]
        following.cancel()

    asyncio.run(follow())
    assert (min(watched.asked) > SLICE) == has_hint


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {}, "n"),
        ("/v1/chat/completions", {"n": 2, "stream": True}, "stream"),
        ("/v1/comparisons", {}, "hearken.compare_sparingly"),
    ],
)
def test_what_a_sparing_chat_needs(
    gateway: Gateway, path: str, fields: dict[str, object], param: str
) -> None:
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
    answer = gateway.http.post(path, json=body | {"hearken": {"compare_sparingly": True}} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("name", ["compare_share", "compare_random_share"])
def test_a_share_is_a_share(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.* between 0 and 1"):
        GatewaySettings(data=tmp_path, engines=("http://127.0.0.1:8001",), **{name: 1.5})
