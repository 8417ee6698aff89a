"""From votes to evidence: windows, whose votes count, and that order, batches, repetitions do not matter."""

import math
import random
from dataclasses import asdict, replace

import numpy as np
import pytest

from deploy.evidence.betting import log_evidence
from deploy.evidence.evidence import Evidence
from deploy.evidence.preference import FORESEEN_FROM, EvidenceRules, Reading, unproven, votes_needed
from deploy.evidence.streams import WEIGHT
from deploy.evidence.voting import Vote, close_windows
from deploy.history.scope import Scope
from feedback.joining.join import Label
from tests.deploy.builders import answer, thumb

NEW, OLD = "policy-1-aaaaaaaa", "base"
SCOPE = Scope(first_epoch=2, canary=NEW, control=OLD)
RULES = EvidenceRules(window_seconds=10)


def vote_in(arm: str, user: str, value: float, at: float, vote: str = "vote", revision: int = 1) -> Label:
    version = NEW if arm == "canary" else OLD
    return thumb(answer(user, arm=arm, version=version), value, at=at, vote=vote, revision=revision)


def evidence_of(*gains: float) -> float:
    return float(np.exp(log_evidence(np.array(gains))[-1]))


def compared(user: str, value: float, at: float, arm: str = "canary", vote: str = "pair") -> Label:
    """A choice between the answer of a user's arm and live's; value: of the arm's being preferred."""
    ours = answer(user, arm=arm, version=NEW if arm == "canary" else OLD)
    theirs = answer(user, arm="live", version=OLD, role="reference")
    return Label(
        f"{user}-{vote}", 1, "comparison", user, "default", at, value, "a", "end_user", (ours, theirs)
    )


def reading(labels: list[Label], now: float = 1e6, rules: EvidenceRules = RULES) -> Reading:
    evidence = Evidence(rules, SCOPE)
    evidence.feed(labels)
    evidence.advance(now)
    return evidence.reading()


def test_a_user_is_one_value_when_the_window_closes() -> None:
    labels = [vote_in("canary", "ada", v, at=i, vote=f"v{i}") for i, v in enumerate([1, 1, 0, 1])]
    labels.append(vote_in("control", "bob", 0, at=1))
    early = reading(labels, now=9.9)
    assert (early.pairs, early.canary_users, early.promote, early.harm) == (0, 0, 1.0, 1.0)
    assert reading(labels, now=10.0).canary_users == 1
    closed = reading(labels, now=11.0)
    assert (closed.pairs, closed.mean_difference) == (1, 0.75)
    assert (closed.canary_value, closed.control_value) == (0.75, 0.0)
    assert closed.promote == pytest.approx(evidence_of(0.75))
    assert closed.no_worse == pytest.approx(evidence_of(0.75 + 0.02))


def test_a_revision_counts_before_the_closing_and_not_after() -> None:
    changed = [vote_in("canary", "ada", 1, at=0), vote_in("canary", "ada", 0, at=9, revision=2)]
    assert reading(changed).canary_value == 0.0
    late = [vote_in("canary", "ada", 1, at=0), vote_in("canary", "ada", 0, at=10, revision=2)]
    assert reading(late).canary_value == 1.0
    many = EvidenceRules(window_seconds=10, windows_per_user=5)
    assert reading(late, rules=many).canary_value == 1.0  # nor does it open a window of its own


def test_votes_on_answers_that_were_selected_for_what_they_teach_are_no_evidence() -> None:
    """Which answers are voted on is no chance then: it would be told as what people think of the policy."""
    labels = [vote_in("control", f"c{i}", 0, at=i / 100) for i in range(4)]
    labels += [vote_in("canary", f"t{i}", 1, at=i / 100) for i in range(4)]
    labels += [compared(f"p{i}", 1.0, at=i / 100) for i in range(4)]
    heard = reading(labels)
    assert (heard.pairs, heard.compared) == (4, 4)
    assert heard.promote > 1
    selected = [
        replace(label, answers=tuple(replace(each, selected=True) for each in label.answers))
        for label in labels
    ]
    assert reading(selected) == Reading()
    assert reading([*labels[:4], *selected[4:]]).control_users == 4  # of those that were not


def retracted(label: Label, at: float, revision: int = 2) -> Label:
    return replace(label, at=at, revision=revision, retracted=True, value=0.5, label="retracted")


def test_a_vote_that_is_taken_back_before_the_closing_does_not_count() -> None:
    first, second = vote_in("canary", "ada", 1, at=0), vote_in("canary", "ada", 0, at=1, vote="other")
    assert reading([first, second, retracted(first, at=9)]).canary_value == 0.0
    assert reading([first, second, retracted(first, at=10)]).canary_value == 0.5
    alone = [first, retracted(first, at=9)]
    assert reading(alone).canary_users == 0
    again = [*alone, vote_in("canary", "ada", 0, at=12, revision=3)]
    assert reading(again).canary_value == 0.0  # a window of its own, the first that has anything in it
    lost = replace(retracted(first, at=9), answers=())
    assert reading([lost]) == Reading()


def test_ratings_count_by_their_place_on_the_scale_and_other_kinds_do_not() -> None:
    thumb_up = vote_in("canary", "ada", 1, at=0)
    rating = replace(thumb_up, kind="rating", value=0.25, label="rated", amount=2.0, scale=(1.0, 5.0))
    assert reading([rating]).canary_value == 0.25
    for other in (
        replace(thumb_up, kind="metric", label="measured"),
        replace(thumb_up, kind="comment", label="commented", text="hm"),
        replace(thumb_up, kind="correction", label="corrected", text="so"),
        replace(thumb_up, whole_episode=True),
        replace(rating, source="app"),
    ):
        assert reading([other]).canary_users == 0


def test_later_windows_count_only_when_asked_for() -> None:
    votes = [
        Vote(at, f"v{at}", 1, "thumbs", value)
        for at, value in [(0.0, 1.0), (5.0, 0.0), (12.0, 0.0), (40.0, 1.0)]
    ]
    assert close_windows(votes, 10, 1) == [(10.0, 0.5, None, 2)]
    assert close_windows(votes, 10, 2) == [(10.0, 0.5, None, 2), (22.0, 0.0, None, 1)]


def test_a_vote_without_a_name_counts_for_the_user_who_was_answered() -> None:
    mine = answer("ada", version=NEW)
    unnamed = thumb(mine, 0, at=1, vote="unnamed", rater="u_of_an_address")
    result = reading([thumb(mine, 1, at=0), unnamed])
    assert (result.canary_users, result.canary_value) == (1, 0.5)


def test_only_users_votes_on_this_release_count() -> None:
    mine = answer("ada")
    outside = [
        thumb(mine, 1, at=0, source="model"),
        thumb(mine, 1, at=0, source="annotator"),
        thumb(answer("ada", role="reference", arm="live", version=OLD), 1, at=0),
        thumb(answer("ada", epoch=1), 1, at=0),
        thumb(answer("ada", version="policy-9-cccccccc"), 1, at=0),  # another version had to answer
        compared("ada", 1, at=0, arm="control"),  # of one policy with itself
    ]
    for label in outside:
        result = reading([label])
        assert result.canary_users + result.control_users + result.compared == 0, label


def test_lives_users_are_heard_beside_the_controls() -> None:
    labels = [
        thumb(answer("lea", arm="live", version=OLD), 1, at=0),
        vote_in("control", "kim", 0, at=1),
        vote_in("canary", "ada", 1, at=2),
    ]
    result = reading(labels)
    assert (result.pairs, result.control_users, result.control_value) == (1, 2, 0.5)


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_comparison_is_of_both_policies_and_needs_no_other_user(
    value: float, expected: float, swapped: bool
) -> None:
    label = compared("ada", value, at=0)
    if swapped:
        label = replace(label, value=1 - value, answers=label.answers[::-1])
    result = reading([label])
    assert (result.compared, result.preferred, result.pairs) == (1, expected, 0)
    assert result.promote == pytest.approx(evidence_of(WEIGHT * (2 * expected - 1)))


def test_thumbs_and_choices_of_a_user_are_one_observation() -> None:
    labels = [vote_in("canary", "ada", 1, at=0), compared("ada", 1, at=1), vote_in("control", "kim", 0, at=2)]
    result = reading(labels)
    assert (result.pairs, result.compared) == (1, 1)
    assert result.promote == pytest.approx(evidence_of(1 + WEIGHT))
    alone = reading(labels[:2], now=5000.0)
    assert (alone.pairs, alone.compared) == (0, 0), "a partner may still come"
    late = reading([*labels[:2], vote_in("control", "kim", 0, at=4000)], now=5000.0)
    assert (late.pairs, late.compared) == (0, 1), "nobody was heard at the same time"


@pytest.mark.parametrize(("value", "expected"), [(1.0, 0.0), (0.0, 1.0)])
def test_in_a_holdback_the_one_who_keeps_the_old_policy_compares(value: float, expected: float) -> None:
    ours = answer("kim", arm="control", version=OLD)
    theirs = answer("kim", arm="live", version=NEW, role="reference")
    label = replace(compared("kim", value, at=0), answers=(ours, theirs))
    assert reading([label]).preferred == expected, "of the new one, whoever was asked"


def test_who_compares_with_the_old_policy_changes_nothing() -> None:
    """The control's comparisons, of one policy with itself, once were mixed with the canary's of two."""
    labels = [compared(f"c{i}", float(i % 2), at=i) for i in range(200)]
    labels += [
        vote_in(arm, f"{arm}{i}", float(i % 3 > 0), at=i) for i in range(200) for arm in ("canary", "control")
    ]
    alone = reading(labels)
    mixed = reading([*labels, *(compared(f"k{i}", 0.5, at=i, arm="control") for i in range(200))])
    assert (mixed.promote, mixed.harm, mixed.mean_difference) == (alone.promote, alone.harm, 0.0)


def unanimous(canary: float, control: float, users: int = 120, start: int = 0) -> list[Label]:
    arms = (("canary", canary), ("control", control))
    return [
        vote_in(arm, f"{arm}{i}", value, at=i) for i in range(start, start + users) for arm, value in arms
    ]


def test_both_tests_decide_and_the_first_crossing_stays() -> None:
    rules = replace(RULES, voters_tolerance=0.5)
    better = unanimous(canary=1, control=0)
    assert reading(better).crossed is None
    assert unproven(reading(better), 20) == ["that comparisons agree, or that as many vote in both buckets"]
    result = reading(better, rules=rules)
    assert (result.crossed, result.mean_difference) == ("promote", 1.0)
    assert 10 < result.pairs < 120
    assert unproven(result, RULES.promote_bound) == []
    late = [vote_in("canary", f"late{i}", 0, at=200 + i) for i in range(500)]
    later = reading(better + late, rules=rules)
    assert (later.crossed, later.pairs, later.promote) == ("promote", result.pairs, result.promote)
    worse = unanimous(canary=0, control=1)
    assert reading(worse).crossed == "harm"
    assert reading(worse).harm >= 100
    turned = reading([*better, *unanimous(canary=0, control=1, users=400, start=120)], rules=rules)
    assert turned.crossed == "harm", "the promotion may have had to wait for more users"


def random_labels(seed: int) -> list[Label]:
    rng = random.Random(seed)
    labels = []
    for i in range(60):
        arm, at = rng.choice(["canary", "control"]), rng.uniform(0, 100)
        for j in range(rng.randint(1, 4)):
            for revision in range(1, rng.randint(2, 4)):
                at += rng.uniform(0, 6)
                labels.append(vote_in(arm, f"u{i}", float(rng.random() < 0.6), at, f"v{j}", revision))
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_order_batches_and_repetitions_do_not_matter(seed: int) -> None:
    labels = random_labels(seed)
    expected = reading(labels)
    rng = random.Random(seed + 100)
    for _ in range(5):
        mixed = labels + rng.sample(labels, len(labels) // 2)
        rng.shuffle(mixed)
        evidence = Evidence(RULES, SCOPE)
        while mixed:
            size = rng.randint(1, 20)
            evidence.feed(mixed[:size])
            mixed = mixed[size:]
            evidence.reading()  # looking in between changes nothing either
        evidence.advance(1e6)
        assert evidence.reading() == expected


def crowd(seed: int, users: int) -> list[Label]:
    """Votes of both kinds of three tenants' users, some of whom are heard on both sides, a few a second."""
    rng = random.Random(seed)
    liked = rng.choice([(0.9, 0.4), (0.4, 0.9), (0.6, 0.6)])
    labels = []
    for i in range(users):
        user, new, at = f"u{rng.randrange(users)}", rng.random() < 0.4, float(rng.randrange(users))
        value = float(rng.random() < liked[0 if new else 1])
        if rng.random() < 0.3:
            said = compared(user, value, at, vote=f"pair{i}")
        else:
            said = vote_in("canary" if new else "control", user, value, at, f"v{i}")
        labels.append(replace(said, tenant=rng.choice(["default", "shop", "bank"])))
    return labels


def alike(one: Reading, other: Reading) -> bool:
    """Sums in another order may differ in their last digits."""
    pairs = zip(asdict(one).values(), asdict(other).values(), strict=True)
    return all(a == (pytest.approx(b, rel=1e-9) if isinstance(b, float) else b) for a, b in pairs)


@pytest.mark.parametrize("seed", range(8))
def test_looks_in_between_and_late_votes_change_nothing(seed: int) -> None:
    labels, rng = crowd(seed, 300), random.Random(seed)
    late = sorted(range(len(labels)), key=lambda i: labels[i].at + (rng.random() < 0.1) * rng.uniform(0, 200))
    evidence = Evidence(RULES, SCOPE, piece=7)
    for count, i in enumerate(late, start=1):
        evidence.feed([labels[i]])
        found = evidence.reading()
        if count % 20 == 0:
            whole = Evidence(RULES, SCOPE, piece=10_000)
            whole.feed(labels[j] for j in late[:count])
            assert alike(found, whole.reading())


def test_those_who_are_heard_at_one_time_are_heard_together() -> None:
    against = [compared(f"a{i:03}", 0.0, at=0, vote=f"a{i}") for i in range(60)]
    in_favour = [compared(f"b{i:03}", 1.0, at=0, vote=f"b{i}") for i in range(60)]
    at_once, late = Evidence(RULES, SCOPE, piece=7), Evidence(RULES, SCOPE, piece=7)
    for evidence, some in ((at_once, against + in_favour), (late, against)):
        evidence.feed(some)
        evidence.advance(1e6)
    assert (at_once.reading().crossed, late.reading().crossed) == (None, "harm")
    late.feed(in_favour)
    assert alike(late.reading(), at_once.reading())


def test_ten_votes_of_each_user_do_not_inflate_errors() -> None:
    """Users with lasting tastes and ten votes each, equal arms."""
    rng = random.Random(2)
    rules = EvidenceRules(window_seconds=10, margin=0.0)
    runs, by_user, by_vote = 60, 0, 0
    for _ in range(runs):
        labels, differences = [], []
        for i in range(60):
            values = {}
            for arm in ("canary", "control"):
                taste = rng.random()
                values[arm] = [float(rng.random() < taste) for _ in range(10)]
                labels += [
                    vote_in(arm, f"{arm}{i}", value, at=20 * i + j * 0.5, vote=f"v{j}")
                    for j, value in enumerate(values[arm])
                ]
            differences += [a - b for a, b in zip(values["canary"], values["control"], strict=True)]
        by_user += reading(labels, rules=rules).promote >= 20
        by_vote += bool(log_evidence(np.array(differences)).max() >= math.log(20))
    assert by_user / runs <= 1 / 20
    assert by_vote / runs > 3 / 20  # the same votes, counted as if each were a user of its own


def verdict(seed: int, canary_up: float, colluders: float) -> str:
    """What 2,000 users' votes say of a canary whose answers are liked with a probability.

    Colluders do not know their arm, like everyone. Each sends 20 votes, and all say the opposite of what the
    answer deserves: up for bad answers, down for good ones.
    """
    draw = random.Random(seed)
    evidence = Evidence(replace(RULES, voters_tolerance=0.3), SCOPE)
    for number in range(2000):
        arm = "canary" if draw.random() < 0.5 else "control"
        deserved = float(draw.random() < (canary_up if arm == "canary" else 0.6))
        colludes = draw.random() < colluders
        for i in range(20 if colludes else 1):
            value = 1.0 - deserved if colludes else deserved
            evidence.feed([vote_in(arm, f"user-{number}", value, at=float(number), vote=f"v{i}")])
        if number % 25:
            continue
        evidence.advance(float(number))
        crossed = evidence.reading().crossed
        if crossed:
            return crossed
    return "inconclusive"


@pytest.mark.parametrize(("canary_up", "right"), [(0.75, "promote"), (0.45, "harm")])
def test_five_percent_colluding_raters_do_not_change_the_verdict(canary_up: float, right: str) -> None:
    for seed in range(5):
        assert verdict(seed, canary_up, 0.0) == right
        assert verdict(seed, canary_up, 0.05) == right


def test_colluding_raters_do_not_promote_a_worse_policy() -> None:
    assert [verdict(seed, 0.5, 0.05) for seed in range(20)].count("promote") == 0


def test_votes_needed_are_foreseen_from_how_evidence_grew() -> None:
    proven = {"no_worse": 50.0, "voters_alike": 50.0}
    half_way = Reading(pairs=30, compared=10, promote=math.sqrt(20.0), **proven)
    assert votes_needed(half_way, 20.0) == 40
    assert votes_needed(replace(half_way, no_worse=20.0**0.25), 20.0) == 120, "the slowest of them"
    assert votes_needed(replace(half_way, promote=25.0), 20.0) == 0
    assert votes_needed(replace(half_way, promote=0.9), 20.0) is None, "it does not grow"
    assert votes_needed(replace(half_way, pairs=FORESEEN_FROM - 1, compared=0), 20.0) is None, "few voted"
