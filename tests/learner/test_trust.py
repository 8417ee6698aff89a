"""Who agrees with others is trusted, who floods or mobs waits, and nobody moves the training alone."""

import dataclasses
import random
import time
from collections.abc import Iterator

import pytest

from feedback.joining.labels import Label
from learner.reward.weighing import vote_weights
from learner.votes.quarantine import quarantine
from learner.votes.trust import BRIGADE, BURST, CROWD, NEW, Agreement, TrustRules, standings, trusted
from tests.learner.test_labels import label

RULES = TrustRules()


def vote(number: int, rater: str, at: float, *, value: float = 1.0, owner: str | None = None) -> Label:
    """A thumb on an answer of its own; `owner` is who was given the answer, the rater unless told."""
    made = label(number, rater=rater, value=value)
    answer = dataclasses.replace(made.answers[0], user=owner or rater)
    return dataclasses.replace(made, at=at, answers=(answer,))


@pytest.mark.parametrize("cap", [0.02, 0.05, 0.2])
def test_a_rater_with_a_thousand_votes_moves_the_training_no_more_than_the_cap_allows(cap: float) -> None:
    labels = [vote(i, "u_loud", float(i)) for i in range(1000)]
    labels += [vote(1000 + i, f"u_{i % 100}", float(i)) for i in range(200)]
    weights = vote_weights(labels, cap)
    loud = sum(weights[:1000])
    assert loud / sum(weights) == pytest.approx(cap)
    assert set(weights[1000:]) == {1.0}  # at nobody else's expense


def test_the_cap_holds_for_weights_too_and_for_many_loud_raters() -> None:
    draw = random.Random(0)
    labels = [
        dataclasses.replace(
            vote(i, f"u_{min(i % 7, draw.randrange(60))}", float(i)), weight=draw.random() + 0.01
        )
        for i in range(3000)
    ]
    weights = vote_weights(labels, 0.1)
    totals: dict[str, float] = {}
    for each, weight in zip(labels, weights, strict=True):
        totals[each.rater] = totals.get(each.rater, 0.0) + weight
    raters = len(totals)
    assert max(totals.values()) / sum(totals.values()) <= max(0.1, 1 / raters) + 1e-9


def test_agreement_weighs_and_is_shrunk_towards_everyones() -> None:
    agreement = Agreement()
    draw = random.Random(1)
    for i in range(4000):
        rater = f"u_{i % 40}"
        truth = draw.random() < 0.5
        flips = {0: 1.0, 1: 0.5}.get(i % 40, 0.1)  # one always lies, one tosses a coin, the others slip
        said = truth != (draw.random() < flips)
        agreement.add([vote(i, rater, 0.0, value=float(said))], [0.8 if truth else 0.2])
    agreement.add([vote(9000, "u_once", 0.0, value=0.0)], [0.8])
    liar, coin, honest, once = (agreement.weight(rater, RULES) for rater in ("u_0", "u_1", "u_5", "u_once"))
    assert liar == 0.0
    assert coin < 0.5
    assert honest > 0.85
    assert once > 0.8  # one disagreement says little


def turning(agreement: Agreement, turned: dict[str, bool], sure: float = 0.85) -> None:
    """An update's votes of 40 raters, foreseen by a model that knows the old taste only."""
    draw = random.Random(agreement.state()["everyone"][1])
    votes, foreseen = [], []
    for i in range(200):
        rater = f"u_{i % 40}"
        chance = sure if draw.random() < 0.5 else 1 - sure
        value = draw.random() < chance
        votes.append(
            vote(100 * agreement.state()["everyone"][1] + i, rater, 0.0, value=value != turned[rater])
        )
        foreseen.append(chance)
    agreement.add(votes, foreseen)


@pytest.mark.parametrize("who", [range(40), range(1), range(6)], ids=["everybody", "one alone", "a few"])
def test_who_changes_their_mind_is_trusted_as_before(who: range) -> None:
    agreement = Agreement()
    names = [f"u_{i}" for i in range(40)]
    for updates, changed in ((8, range(0)), (8, who)):
        turned = {name: i in changed for i, name in enumerate(names)}
        for _ in range(updates):
            turning(agreement, turned)
            assert min(agreement.weight(name, RULES) for name in names) >= 0.9


def test_who_came_after_a_turn_is_no_worse_than_who_came_before() -> None:
    agreement = Agreement()
    for _ in range(8):
        turning(agreement, dict.fromkeys((f"u_{i}" for i in range(40)), False))
    late = [vote(90_000 + i, f"late_{i % 10}", 0.0, value=0.0) for i in range(100)]
    known = [vote(91_000 + i, f"u_{i % 40}", 0.0, value=0.0) for i in range(100)]
    agreement.add([*late, *known], [0.85] * 200)
    assert min(agreement.weight(f"late_{i}", RULES) for i in range(10)) >= 0.9


def test_liars_are_found_beside_people_who_change_their_minds() -> None:
    agreement = Agreement()
    for update in range(16):
        turning(agreement, {f"u_{i}": i < 2 or (i < 20 and update >= 8) for i in range(40)})
    assert max(agreement.weight(f"u_{i}", RULES) for i in range(2)) < 0.2
    assert min(agreement.weight(f"u_{i}", RULES) for i in range(2, 40)) >= 0.9


def test_a_crowd_of_new_raters_waits_until_they_are_known() -> None:
    agreement = Agreement()
    for _ in range(8):
        turning(agreement, dict.fromkeys((f"u_{i}" for i in range(40)), False))
    known = [vote(90_000 + i, f"u_{i % 40}", 0.0, value=float(i % 7 > 0)) for i in range(200)]
    fine = [vote(91_000 + i, f"fine_{i}", 0.0, value=float(i % 6 > 0)) for i in range(40)]
    agreement.add([*known, *fine], [0.85] * 240)
    assert agreement.waiting() == {}
    mob = [vote(92_000 + i, f"mob_{i}", 0.0, value=float(i % 6 == 0)) for i in range(40)]
    again = [dataclasses.replace(each, event_id=f"again-{each.event_id}") for each in known]
    agreement.add([*again, *mob], [0.85] * 240)
    assert agreement.waiting() == {each.event_id: CROWD for each in mob if not each.value}
    restored = Agreement()
    restored.restore(agreement.state())
    assert restored.waiting() == agreement.waiting()
    for i in range(40):
        restored.add([vote(93_000 + i, "mob_1", 0.0)], [0.95])
    assert "fb-92001" not in restored.waiting()  # one of them is known by now
    restored.forget_others(mob[:5])
    assert set(restored.crowd) == {each.event_id for each in mob[1:5]}


def test_all_who_turn_together_are_no_crowd() -> None:
    agreement = Agreement()
    for _ in range(8):
        turning(agreement, dict.fromkeys((f"u_{i}" for i in range(40)), False))
    votes = [vote(90_000 + i, f"u_{i % 40}" if i % 2 else f"new_{i}", 0.0, value=0.0) for i in range(200)]
    agreement.add(votes, [0.85] * 200)
    assert agreement.waiting() == {}


def test_a_model_that_foresees_nothing_judges_nobody() -> None:
    agreement = Agreement()
    agreement.add([vote(i, "u_1", 0.0, value=float(i % 2)) for i in range(100)], [0.5] * 100)
    assert agreement.weight("u_1", RULES) == 1.0


def test_what_agreement_remembers_survives_a_checkpoint() -> None:
    agreement = Agreement()
    votes = [vote(i, f"u_{i % 3}", 0.0) for i in range(30)]
    agreement.add(votes, [0.9] * 30)
    again = Agreement()
    again.restore(agreement.state())
    assert again.unseen(votes) == []
    assert again.of("u_1", RULES) == agreement.of("u_1", RULES)
    revised = dataclasses.replace(votes[0], revision=votes[0].revision + 1)
    assert again.unseen([revised]) == [revised]


class Unlisted(dict[str, tuple[float, int]]):
    """Sums of raters that can be asked for one by one only, as those in a file."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all raters were gone through")

    items = values = keys = __iter__  # type: ignore[assignment]


def test_no_update_goes_through_all_raters() -> None:
    votes = [vote(i, f"u_{i % 7}", float(i)) for i in range(70)]
    agreement, known = Agreement(Unlisted()), Agreement()
    for each in (agreement, known):
        each.add(votes, [0.9] * 70)
    assert agreement.mean == known.mean == pytest.approx(0.9)
    assert agreement.weight("u_3", RULES) == known.weight("u_3", RULES)
    assert trusted(votes, agreement, RULES) == trusted(votes, known, RULES)
    state = agreement.state()
    assert state["sums"] is None
    again = Agreement(Unlisted({"u_3": (9.0, 10)}))
    again.restore(state)
    assert again.of("u_3", RULES) == pytest.approx(agreement.of("u_3", RULES))


def test_what_was_scored_is_remembered_of_the_votes_that_are_kept_and_sums_stay() -> None:
    agreement = Agreement()
    votes = [vote(i, "u_1", 0.0) for i in range(30)]
    agreement.add(votes, [0.9] * 30)
    before = agreement.of("u_1", RULES)
    agreement.forget_others(votes[20:])
    assert agreement.unseen(votes) == votes[:20]
    assert len(agreement.state()["seen"]) == 10
    assert agreement.of("u_1", RULES) == before


def test_a_checkpoint_of_before_has_no_sum_of_all_raters() -> None:
    agreement = Agreement()
    agreement.add([vote(i, f"u_{i % 3}", 0.0) for i in range(30)], [0.8] * 30)
    state = agreement.state()
    whole = state.pop("everyone")
    for older in (state, state | {"everyone": whole[:2]}):  # of before there was one, and of before squares
        again = Agreement()
        again.restore(older)
        assert again.mean == pytest.approx(agreement.mean)
        assert again.weight("u_1", RULES) == pytest.approx(1.0)


def test_of_a_burst_so_many_train_and_the_rest_waits() -> None:
    calm = [vote(i, "u_calm", i * 10.0) for i in range(100)]
    flood = [vote(1000 + i, "u_flood", 500 + i * 0.1) for i in range(100)]
    waiting = quarantine([*calm, *flood], RULES, now=2000.0)
    assert set(waiting.values()) == {BURST}
    assert waiting.keys() == {each.event_id for each in flood[RULES.burst_votes :]}


def test_imports_and_models_do_not_wait() -> None:
    flood = [dataclasses.replace(vote(i, "u_1", 0.0), source="import") for i in range(500)]
    assert quarantine(flood, RULES, now=0.0) == {}


def test_new_raters_wait_until_they_are_known() -> None:
    rules = TrustRules(newcomer_seconds=600.0)
    votes = [vote(1, "u_old", 0.0), vote(2, "u_new", 900.0)]
    assert quarantine(votes, rules, now=1000.0) == {"fb-2": NEW}
    assert quarantine(votes, rules, now=1600.0) == {}


def test_many_strangers_upon_one_answer_are_a_brigade_and_its_owner_is_not() -> None:
    def on_one(number: int, rater: str, at: float) -> Label:
        made = vote(number, rater, at, value=0.0, owner="u_owner")
        answer = dataclasses.replace(made.answers[0], completion_id="chatcmpl-target")
        return dataclasses.replace(made, answers=(answer,))

    mob = [on_one(i, f"u_{i}", 100.0 + i) for i in range(6)]
    owner = on_one(50, "u_owner", 101.0)
    waiting = quarantine([*mob, owner], RULES, now=1000.0)
    assert waiting == {each.event_id: BRIGADE for each in mob}
    slow = [on_one(i, f"u_{i}", i * RULES.brigade_seconds) for i in range(6)]
    assert quarantine(slow, RULES, now=1e6) == {}
    annotators = [dataclasses.replace(each, source="annotator") for each in mob]
    assert quarantine(annotators, RULES, now=1000.0) == {}


def stranger(number: int, rater: str, at: float, target: str = "chatcmpl-target") -> Label:
    """A thumb of somebody on an answer that another was given."""
    made = vote(number, rater, at, owner="u_owner")
    answer = dataclasses.replace(made.answers[0], completion_id=target)
    return dataclasses.replace(made, answers=(answer,))


def crowded(labels: list[Label], rules: TrustRules) -> set[str]:
    """The rule as it is said: whoever votes within the time in which enough raters fell upon one answer."""
    found = set()
    for last in labels:
        near = [
            each
            for each in labels
            if each.answers == last.answers and 0 <= last.at - each.at < rules.brigade_seconds
        ]
        if len({each.rater for each in near}) >= rules.brigade_raters:
            found |= {each.event_id for each in near}
    return found


@pytest.mark.parametrize("seed", range(40))
def test_brigades_are_found_as_the_rule_says_them(seed: int) -> None:
    draw = random.Random(seed)
    rules = TrustRules(brigade_raters=draw.randint(1, 5), brigade_seconds=draw.choice([1.0, 10.0, 60.0]))
    votes = [
        stranger(i, f"u_{draw.randrange(8)}", draw.uniform(0, 200), f"chatcmpl-{draw.randrange(3)}")
        for i in range(draw.randint(0, 80))
    ]
    votes = [
        dataclasses.replace(each, answers=(dataclasses.replace(each.answers[0], at=0.0),)) for each in votes
    ]
    waiting = quarantine(votes, rules, now=1000.0)
    assert {event_id for event_id, reason in waiting.items() if reason == BRIGADE} == crowded(votes, rules)


def test_a_mob_of_thousands_costs_no_more_than_as_many_votes_apart() -> None:
    mob = [stranger(i, f"u_{i}", i * 0.01) for i in range(8000)]
    apart = [vote(i, f"u_{i}", i * 0.01, owner="u_owner") for i in range(8000)]
    assert len(quarantine(mob, RULES, now=1000.0)) == 8000
    assert not quarantine(apart, RULES, now=1000.0)
    assert _seconds(mob) < 20 * _seconds(apart)  # about as long; with the square of them 150 times


def _seconds(votes: list[Label]) -> float:
    """The least CPU time of three tries."""
    tries = []
    for _ in range(3):
        started = time.process_time()
        quarantine(votes, RULES, now=1000.0)
        tries.append(time.process_time() - started)
    return min(tries)


def test_trusted_labels_carry_the_raters_weight_and_operators_see_why() -> None:
    agreement = Agreement()
    agreement.add([vote(i, "u_good", 0.0) for i in range(50)], [0.9] * 50)
    agreement.add([vote(100 + i, "u_bad", 0.0, value=0.0) for i in range(50)], [0.9] * 50)
    agreement.add([vote(200 + i, f"u_{i}", 0.0) for i in range(200)], [0.9] * 200)
    labels = [vote(1, "u_good", 0.0), vote(2, "u_bad", 0.0)]
    (kept,) = trusted(labels, agreement, RULES)
    assert (kept.rater, kept.weight > 0.9) == ("u_good", True)
    seen = standings(labels, {"fb-1": BURST}, agreement, RULES)
    assert seen["u_good"].waiting == {BURST: 1}
    assert seen["u_good"].is_suspect
    assert (seen["u_bad"].weight, seen["u_bad"].is_suspect) == (0.0, True)
