"""Certificates of decisions: whatever is changed afterwards is named, and what is not there is no fault."""

import json
import math
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deploy.audit.rehearsing import Changes, Rehearsed, rehearse
from deploy.audit.replay import Replayed, replayed
from deploy.audit.verifying import verify
from deploy.history.digests import Digests
from deploy.history.releases import append_command, append_step, digest_of, entry, read_history
from deploy.history.signing import BadKey, is_signed, parse_key, public_key
from deploy.history.states import step
from deploy.registry.files import MANIFEST
from deploy.registry.registry import Registry
from deploy.reports.recorded import JUDGING, judging, settings_of
from deploy.settings import ControllerSettings
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, TOPICS
from feedback.core.log import Entry, Record
from feedback.core.secret import load_secret
from feedback.kafka.log import KafkaLog
from feedback.kafka.settings import KafkaSettings
from feedback.sqlite.log import SqliteLog
from tests.deploy.certified import (
    as_before,
    copied,
    decisions_in,
    entries_of,
    named,
    place_of,
    rewritten,
    tell_story,
    verified,
    with_value,
)
from tests.deploy.world import MakeWorld, World

NINE = ["begun", "accepted", "started", "raised", "promoted", "finished", "accepted", "started", "harmful"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("service"), anchor_weight=0.0)
    tell_story(made)
    assert made.outcomes == NINE
    yield made
    made.close()


@pytest.fixture(scope="module")
def history(world: World) -> list[Entry]:
    return entries_of(world.log)


@pytest.fixture(scope="module")
def secret(world: World) -> bytes:
    return load_secret(world.folder / "secret")


def votes_of(entries: list[Entry]) -> list[int]:
    return [i for i, each in enumerate(entries) if each.topic == FEEDBACK]


# -- verify ----------------------------------------------------------------------------------------------


def test_what_was_written_holds(world: World, history: list[Entry], tmp_path: Path) -> None:
    found = verified(history, tmp_path, world)
    assert found.problems == []
    assert (found.decisions, found.chained_from, found.signed) == (9, 1, 9)
    assert found.held == {"votes": 4, "completions": 4}
    assert found.not_kept == {"votes": 0, "completions": 0}
    assert (found.manifests, found.absent) == (2, [])
    assert found.head is not None
    assert found.head[0] == 9
    assert verified(history, tmp_path, world, head=found.head[1]).problems == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_any_decision_is_named(
    world: World, history: list[Entry], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    releases = [each for each in history if each.topic == RELEASES]
    i, decision = data.draw(st.sampled_from(decisions_in(releases)))
    value = bytearray(releases[i].value)
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    assume(_content(bytes(value)) != _content(releases[i].value))
    edited = with_value(releases, i, bytes(value))
    found = verified(edited, tmp_path_factory.getbasetemp(), world)
    numbers = [where for where in named(found) if _speaks_of(where, decision.number)]
    record = f"releases/0, record {i}"
    assert numbers or record in named(found), named(found)


def _content(value: bytes) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _speaks_of(where: str, number: int) -> bool:
    """Whether "decision 5" or "decision 4 to 8" is of a number."""
    if not where.startswith("decision "):
        return False
    first, _, last = where.removeprefix("decision ").partition(" to ")
    return int(first) <= number <= int(last or first)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_decision_that_was_taken_out_is_named(
    world: World, history: list[Entry], tmp_path: Path, number: int
) -> None:
    i = place_of(history, number)
    found = verified([*history[:i], *history[i + 1 :]], tmp_path, world)
    assert named(found)[0] == f"decision {number}"


def test_two_decisions_that_changed_places_are_named(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    four, five = place_of(history, 4), place_of(history, 5)
    edited = with_value(with_value(history, four, history[five].value), five, history[four].value)
    assert "decision 4" in named(verified(edited, tmp_path, world))


def test_a_decision_that_was_put_in_between_is_named(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    """It counts, as it is the first with its number, and so the one that counted before does not."""
    i = place_of(history, 5)
    forged = decisions_in(history)[4][1].model_copy(
        update={"sentence": "Promoted by nobody.", "signature": ""}
    )
    edited = [*history[:i], history[i]._replace(value=entry(forged).value), *history[i:]]
    found = verified(edited, tmp_path, world)
    assert "decision 5" in named(found)


def test_an_end_that_was_cut_off_is_known_by_its_head(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    head = verified(history, tmp_path, world).head
    assert head is not None
    cut = history[: place_of(history, 9)]
    assert verified(cut, tmp_path, world).problems == [], "nothing in the log tells of it"
    (problem,) = verified(cut, tmp_path, world, head=head[1]).problems
    assert head[1] in problem.what


def test_a_changed_vote_is_named_with_the_decision_that_rests_on_it(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    promoted = place_of(history, 5)
    i = max(i for i in votes_of(history) if i < promoted)
    edited = with_value(history, i, history[i].value.replace(b'"kind"', b'"Kind"'))
    (problem,) = verified(edited, tmp_path, world).problems
    assert problem.where == "decision 5"
    raised, decided = (decisions_in(history)[n - 1][1].cursor["feedback/0"] for n in (4, 5))
    assert f"votes: a record of feedback/0 from {raised} to {decided - 1} was changed" in problem.what
    assert "since decision 4" in problem.what


def test_a_changed_answer_is_named_too(world: World, history: list[Entry], tmp_path: Path) -> None:
    started = place_of(history, 3)
    i = next(i for i, each in enumerate(history) if i > started and each.topic == COMPLETIONS)
    found = verified(with_value(history, i, history[i].value + b" "), tmp_path, world)
    assert named(found) == ["decision 4"], "once for a stage"
    assert "completions/0 from" in found.problems[0].what


def test_votes_that_were_added_or_taken_away_are_named(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    i = next(i for i in votes_of(history) if i > place_of(history, 3))
    assert "decision 4" in named(verified([*history[:i], history[i], *history[i:]], tmp_path, world))
    assert "decision 4" in named(verified([*history[:i], *history[i + 1 :]], tmp_path, world))
    last = [each for j, each in enumerate(history) if each.topic != FEEDBACK or j < i + 3]
    (problem, *_) = verified(last, tmp_path, world).problems
    assert problem.where == "decision 4"
    assert "feedback/0 ends at" in problem.what


def test_a_vote_that_a_disk_damaged_is_named(world: World, history: list[Entry], tmp_path: Path) -> None:
    with copied(history, tmp_path) as log:
        at = decisions_in(history)[3][1].cursor["feedback/0"]  # the first one that the raise did not rest on
        longer = "UPDATE records SET value = CAST(value || ' ' AS BLOB) WHERE topic = ? AND offset = ?"
        with sqlite3.connect(log.path) as db:
            db.execute(longer, (FEEDBACK, at))
        (problem,) = verify(log, world.registry).problems
        assert problem.where == "decision 5"
        assert f"feedback/0 lacks {at}, which is missing or not readable" in problem.what
        (differs,) = [each for each in replayed(log, ANY) if each.verdict == "differs"]
        assert (differs.decision.number, f"lacks {at}" in differs.why) == (5, True)


def test_votes_that_no_decision_rests_on_change_nothing(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    late = history[votes_of(history)[0]]
    assert verified([*history, late], tmp_path, world).problems == []
    with copied([*history, late], tmp_path) as log:
        assert {each.verdict for each in replayed(log, world.settings)} == {"same"}


def test_a_changed_manifest_and_changed_weights_are_named(
    world: World, history: list[Entry], tmp_path: Path, secret: bytes
) -> None:
    adapters = tmp_path / "adapters"
    shutil.copytree(world.registry.folder, adapters)
    first, second = Registry(adapters).versions()
    manifest = adapters / first / MANIFEST
    manifest.write_text(manifest.read_text().replace('"prompts": 64', '"prompts": 65'))
    weights = next((adapters / second).glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    key = parse_key(public_key(secret))
    with copied(history, tmp_path) as log:
        found = verify(log, Registry(adapters), [key])
        assert named(found) == [first, second]
        assert "manifest.json has sha256" in found.problems[0].what
        assert "safetensors has sha256" in found.problems[1].what
        shutil.rmtree(adapters / first)
        found = verify(log, Registry(adapters), [key])
        assert (named(found), found.absent) == ([second], [first])
        assert verify(log, None, [key]).absent == [first, second]


def test_a_signature_of_another_secret_is_none(world: World, history: list[Entry], tmp_path: Path) -> None:
    forged = rewritten(history, 5, b"another secret" * 3, sentence="Promoted by somebody else.")
    found = verified(forged, tmp_path, world)
    assert named(found) == [f"decision {n}" for n in range(5, 10)], "the chain itself is whole"
    with copied(forged, tmp_path) as log:
        assert verify(log, world.registry).problems == [], "without a key nobody knows"
    bare = [decision.model_copy(update={"signature": ""}) for _, decision in decisions_in(history)]
    edited = with_value(history, place_of(history, 9), entry(bare[8]).value)
    assert named(verified(edited, tmp_path, world)) == ["decision 9"]


def test_a_signature_is_of_every_field_and_of_no_space_between(history: list[Entry], secret: bytes) -> None:
    value, keys = history[place_of(history, 9)].value, [parse_key(public_key(secret))]
    content = json.loads(value)
    assert is_signed(json.dumps(content, indent=1).encode(), keys)
    for name in content.keys() - {"signature"}:
        assert not is_signed(json.dumps({**content, name: "other"}).encode(), keys), name
        less = {other: each for other, each in content.items() if other != name}
        assert not is_signed(json.dumps(less).encode(), keys), name
    for signature in ("", "zz", "00", content["signature"].replace("0", "1")):
        assert not is_signed(json.dumps({**content, "signature": signature}).encode(), keys)


@pytest.mark.parametrize("text", ["", "ab", "z" * 64, "f" * 62])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadKey, match="64 hexadecimal digits"):
        parse_key(text)


def test_a_copy_without_completions_is_verified_and_comes_to_an_end(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    bare = [each for each in history if each.topic != COMPLETIONS]
    found = verified(bare, tmp_path, world)
    assert found.problems == []
    assert found.held == {"votes": 4, "completions": 0}
    assert found.not_kept == {"votes": 0, "completions": 4}
    with copied(bare, tmp_path) as log:
        again = list(replayed(log, world.settings))
    assert {each.verdict for each in again} == {"not kept"}
    assert "completions/0 has no records" in again[0].why


def test_a_log_whose_old_records_were_deleted_is_verified(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    with copied(history, tmp_path) as log:
        log.prune(COMPLETIONS, math.inf, 1_000_000)
        votes = sum(each.topic == FEEDBACK for each in history[: place_of(history, 8)])
        log.prune(FEEDBACK, math.inf, votes)
        found = verify(log, world.registry)
        assert found.problems == []
        assert found.held == {"votes": 1, "completions": 0}
        assert found.not_kept == {"votes": 3, "completions": 4}
        assert [each.verdict for each in replayed(log, world.settings)] == ["not kept"] * 4


def test_decisions_of_before_are_read_and_the_chain_begins_after_them(
    make_world: MakeWorld, world: World, history: list[Entry], tmp_path: Path
) -> None:
    newer = make_world()
    before = as_before([history[place_of(history, 1)]])
    newer.log.append(before).result()
    newer.tick()
    append_command(newer.log, "pause", who="ann")
    newer.tick()
    entries = entries_of(newer.log)
    found = verified(entries, tmp_path, newer)
    assert found.problems == []
    assert (found.decisions, found.chained_from, found.signed) == (2, 2, 1)
    changed = with_value(entries, 0, entries[0].value.replace(b"serving", b"Serving"))
    assert named(verified(changed, tmp_path, newer)) == ["decision 1"], "the chain covers the one before it"
    older = as_before(entries)
    assert verified(older, tmp_path, newer).chained_from is None
    mixed = [*entries, *as_before(rewritten(entries[1:], 2, b"x", number=3))[-1:]]
    assert named(verified(mixed, tmp_path, newer))[0] == "decision 3", "an older version wrote after a newer"


def test_what_is_not_readable_in_the_topic_is_named_unless_it_is_of_another_kind(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    def with_record(value: bytes) -> list[str]:
        return named(verified([*history, Entry(RELEASES, "x", value)], tmp_path, world))

    record = f"releases/0, record {sum(each.topic == RELEASES for each in history)}"
    for value in (
        b"{",
        b"[]",
        b"\xff",
        b'{"type": "decision"}',
        b'{"event_id": "decision-1-a", "type": "x"}',
    ):
        assert with_record(value) == [record]
    for value in (
        b'{"type": "party", "event_id": "p"}',
        b'{"type": "delivered", "event_id": "delivered-a-1"}',
    ):
        assert with_record(value) == []


def test_a_decision_that_did_not_count_may_lie_there_if_it_was_signed(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    """Of two controllers one is second; the log may also repeat a record."""
    repeated = history[place_of(history, 5)]
    assert verified([*history, repeated], tmp_path, world).problems == []
    other = repeated._replace(value=repeated.value.replace(b'"number":5', b'"number":4'))
    (where,) = named(verified([*history, other], tmp_path, world))
    assert where.startswith("releases/0, record ")


def test_a_controller_that_begins_anew_in_a_canary_writes_certificates_that_hold(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """Its first decision may rest on less than the last one of the controller before it."""
    world = make_world()
    manifest = world.offer()
    world.taste = lambda served: 0.8 if served == manifest.version else 0.4
    world.pass_time(until="raised")
    world.kill_controller()
    append_command(world.log, "freeze", who="ann")
    world.tick()
    frozen = world.decisions[-1]
    assert (frozen.outcome, frozen.digests) == ("frozen", {}), "it had read nothing yet"
    world.pass_time(until="promoted")
    assert verified(entries_of(world.log), tmp_path, world).problems == []
    assert [each.verdict for each in replayed(world.log, world.settings)] == ["same", "same"]


def test_a_step_without_a_controller_joins_the_chain(history: list[Entry], tmp_path: Path) -> None:
    with copied(history, tmp_path) as log:
        told = read_history(log)
        assert told.state is not None
        append_step(log, told, step(told.state, "paused", None, "Paused.", paused=True), 1.0)
        found = verify(log, None)
    assert (found.decisions, found.chained_from) == (10, 1)
    assert named(found) == ["decision 10"]
    assert "not signed" in found.problems[0].what


@pytest.mark.kafka
def test_the_same_log_on_a_broker_holds_too(
    world: World, history: list[Entry], tmp_path: Path, kafka_bootstrap: str
) -> None:
    settings = KafkaSettings(kafka_bootstrap, prefix=f"c{uuid.uuid4().hex[:8]}-")
    partitions = dict.fromkeys(TOPICS, 1)  # in which each record has the offset that it has in the file
    log = KafkaLog(SqliteLog(tmp_path / "outbox.db"), settings, partitions)
    try:
        log.append(history).result()
        found = verify(log, world.registry)
        assert (found.problems, found.held) == ([], {"votes": 4, "completions": 4})
        assert [each.verdict for each in replayed(log, ANY)] == ["same"] * 4
        assert [each.verdict for each in rehearse(log, None, {}, ANY, 0.0)] == ["same", "same"]
    finally:
        log.close()


@given(data=st.data())
def test_sums_are_of_places_however_these_are_read_together(data: st.DataObject) -> None:
    """As a broker gives records of several partitions in one order today and in another tomorrow."""
    places = [[Record(FEEDBACK, n, i, "k", b"%d" % i) for i in range(5)] for n in range(3)]
    left, mixed = [list(each) for each in places], list[Record]()
    while any(left):
        mixed.append(data.draw(st.sampled_from([each for each in left if each])).pop(0))
    one, other = Digests(), Digests()
    one.take(record for each in places for record in each)
    for record in mixed:
        other.take([record])
    assert one.told() == other.told()
    assert list(one.told()) == ["feedback/0", "feedback/1", "feedback/2"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Record("t", 0, 0, "k", b"ab"), Record("t", 0, 1, "k", b"ab")),
        (Record("t", 0, 0, "k", b"ab"), Record("t", 0, 0, "ka", b"b")),
        (Record("t", 0, 0, "k", b"ab"), Record("t", 0, 0, "k", b"abc")),
        (Record("t", 0, 0, "k", b"ab"), Record("t", 0, 0, "k", b"ac")),
    ],
)
def test_a_sum_is_of_offset_key_and_value(one: Record, other: Record) -> None:
    sums = Digests(), Digests()
    for each, record in zip(sums, (one, other), strict=True):
        each.take([record])
    assert sums[0].told() != sums[1].told()


# -- settings --------------------------------------------------------------------------------------------


def test_settings_come_back_as_they_were_and_hold_nothing_secret(world: World) -> None:
    odd = replace(
        world.settings,
        promote_bound=math.inf,
        webhooks=("https://example.com/token-1234",),
        redis="redis://:password@example.com",
    )
    told = judging(odd)
    assert told.keys() == JUDGING
    assert "example.com" not in json.dumps(told)
    again = settings_of(json.loads(json.dumps(told)))
    assert (again.release_rules, again.evidence_rules) == (odd.release_rules, odd.evidence_rules)
    assert (again.gate, again.guardrails) == (odd.gate, odd.guardrails)
    with pytest.raises(ValueError, match="margin is 2"):
        settings_of({**told, "margin": 2})


# -- replay ----------------------------------------------------------------------------------------------

ANY = ControllerSettings(data=Path(), engines=("http://none",))
"""Settings that are not the world's: those that decisions recorded have to be used."""


def again(entries: list[Entry], folder: Path, release_id: str | None = None) -> list[Replayed]:
    with copied(entries, folder) as log:
        return list(replayed(log, ANY, release_id))


def test_a_replay_goes_by_the_settings_that_were_recorded(history: list[Entry], tmp_path: Path) -> None:
    found = again(history, tmp_path)
    assert [(each.decision.number, each.verdict) for each in found] == [
        (number, "same") for number in (4, 5, 6, 9)
    ]
    assert [each.decision.number for each in again(history, tmp_path, "release-6")] == [9]
    bare = again(as_before(history), tmp_path)
    assert "differs" in {each.verdict for each in bare}, "it recorded none, and these are others"


@pytest.mark.parametrize(
    ("number", "changes", "why"),
    [
        (5, {"sentence": "Promoted for no reason."}, "sentence was 'Promoted for no reason.'"),
        (5, {"numbers": {"pairs": 4000}}, "numbers pairs was 4000, is "),
        (4, {"outcome": "inconclusive"}, "outcome was 'inconclusive', is 'raised'"),
        (9, {"cursor": {}}, "nothing was due"),
    ],
)
def test_what_somebody_with_the_secret_wrote_is_found_by_a_replay(
    world: World,
    history: list[Entry],
    tmp_path: Path,
    secret: bytes,
    number: int,
    changes: dict[str, object],
    why: str,
) -> None:
    forged = rewritten(history, number, secret, **changes)
    (found,) = [each for each in again(forged, tmp_path) if each.verdict == "differs"]
    assert found.decision.number == number
    assert why in found.why


def test_numbers_of_a_promotion_by_hand_are_judged_again(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world()
    world.offer()
    world.pass_time(until="raised")
    append_command(world.log, "promote", who="ann")
    world.tick()
    promoted = world.decisions[-1]
    assert (promoted.outcome, promoted.who) == ("promoted", "ann")
    entries = entries_of(world.log)
    assert [each.verdict for each in again(entries, tmp_path)] == ["same", "same"]
    other = {**promoted.numbers, "pairs": 4000}
    forged = rewritten(entries, promoted.number, load_secret(world.folder / "secret"), numbers=other)
    assert again(forged, tmp_path)[-1].why.startswith("numbers pairs was 4000, is ")
    sooner = rewritten(entries, promoted.number, load_secret(world.folder / "secret"), cursor={})
    why = again(sooner, tmp_path)[-1].why
    assert f"numbers pairs was {promoted.numbers['pairs']}, is 0" in why, "less than the raise rested on"


# -- rehearse --------------------------------------------------------------------------------------------


def rehearsed(world: World, changes: Changes, since: float = 0.0) -> list[Rehearsed]:
    return list(rehearse(world.log, world.registry, changes, ANY, since))


def test_a_rehearsal_with_nothing_changed_repeats_history(world: World) -> None:
    found = rehearsed(world, {})
    assert [(each.release_id, each.verdict, each.what) for each in found] == [
        ("release-2", "same", ""),
        ("release-6", "same", ""),
    ]
    assert [each.at for each in found] == [world.decisions[5].at, world.decisions[8].at]
    assert [each.release_id for each in rehearsed(world, {}, world.decisions[7].at)] == ["release-6"]
    unchanged = rehearsed(world, {("promote_bound",): 20.0, ("guardrails", "z"): 4.5})
    assert {each.verdict for each in unchanged} == {"same"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({("promote_bound",): 2.0}, "sooner than decision 5: Promoted "),
        ({("promote_bound",): 1e30}, "not raised at decision 4: "),
        ({("rung_users",): 80}, "not raised at decision 4: "),
        ({("voters_tolerance",): 0.01}, "not promoted at decision 5: "),
        ({("ladder",): ((0.05, 6), (0.3, 10))}, "raised, not raised at decision 4: "),
        ({("holdback_max_seconds",): 30.0}, "sooner than decision 6: "),
        ({("guardrails", "min_users"): 49}, ""),
    ],
)
def test_a_rehearsal_tells_the_first_difference(world: World, changes: Changes, what: str) -> None:
    first, second = rehearsed(world, changes)
    assert first.what.startswith(what)
    assert first.verdict == ("differs" if what else "same")
    assert (second.verdict, second.what) == ("same", ""), "one that does harm stops all the same"


def test_a_rehearsal_judges_candidates_at_the_gate_as_well(world: World) -> None:
    found = rehearsed(world, {("gate", "prompts"): 100})
    at_gate = [each for each in found if not each.release_id]
    assert [each.version for each in at_gate] == world.registry.versions()
    assert all(each.what.startswith("the gate would have refused it: 64 prompts") for each in at_gate)


def test_settings_that_cannot_be_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="margin is 2"):
        rehearsed(world, {("margin",): 2.0})


def test_recorded_settings_that_are_none_are_told(
    world: World, history: list[Entry], tmp_path: Path, secret: bytes
) -> None:
    forged = rewritten(history, 4, secret, settings={"margin": "much", "gate": 1})
    with copied(forged, tmp_path) as log:
        (first, *_) = rehearse(log, world.registry, {("gate", "prompts"): 100}, ANY, 0.0)
        assert first.what.startswith("the gate would")
        found = [each for each in rehearse(log, None, {}, ANY, 0.0) if each.verdict != "same"]
        assert [each.what.startswith("decision 4 recorded no settings") for each in found] == [True]
        (differs,) = [each for each in replayed(log, ANY) if each.verdict != "same"]
        assert differs.why.startswith("its settings are none")


def test_a_history_without_a_signature_is_none_to_whoever_has_a_key(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    bare, previous = list(history), ""
    for i, decision in decisions_in(history):
        other = decision.model_copy(update={"signature": "", "previous": previous})
        bare[i] = entry(other)
        previous = digest_of(bare[i].value)
    assert named(verified(bare, tmp_path, world)) == [f"decision {n}" for n in range(1, 10)]


def test_a_rehearsal_of_what_is_not_in_the_log_says_so(
    world: World, history: list[Entry], tmp_path: Path
) -> None:
    with copied([each for each in history if each.topic != COMPLETIONS], tmp_path) as log:
        found = list(rehearse(log, None, {}, ANY, 0.0))
    assert [each.verdict for each in found] == ["not kept", "not kept"]
