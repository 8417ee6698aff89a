"""Quarantine of votes: of new raters, of one rater in a burst, and of brigades."""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence

from feedback.joining.labels import Label
from learner.votes.trust import BRIGADE, BURST, NEW, TrustRules

PEOPLE = ("end_user", "annotator", "app")
"""Sources of votes that people give as they come; imports and models have no bursts."""


def quarantine(labels: Sequence[Label], rules: TrustRules, now: float) -> dict[str, str]:
    """The votes that wait: event id -> reason. `now` is Unix time; imports and models never wait."""
    people = [label for label in labels if label.source in PEOPLE]
    waiting = dict.fromkeys(_brigades(people, rules), BRIGADE)
    by_rater: dict[str, list[Label]] = defaultdict(list)
    for label in people:
        by_rater[label.rater].append(label)
    for votes in by_rater.values():
        votes.sort(key=lambda label: (label.at, label.event_id))
        if now - votes[0].at < rules.newcomer_seconds:
            waiting |= dict.fromkeys((label.event_id for label in votes), NEW)
        waiting |= dict.fromkeys(_bursts(votes, rules), BURST)
    return waiting


def _bursts(votes: Sequence[Label], rules: TrustRules) -> list[str]:
    """The votes of one rater, in order of time, that are too many at once."""
    surplus: list[str] = []
    recent: deque[float] = deque()
    for label in votes:
        while recent and label.at - recent[0] >= rules.burst_seconds:
            recent.popleft()
        if len(recent) >= rules.burst_votes:
            surplus.append(label.event_id)
        else:
            recent.append(label.at)
    return surplus


def _brigades(labels: Sequence[Label], rules: TrustRules) -> list[str]:
    """The votes of end users that fall upon others' answers together."""
    strangers: dict[tuple[str, int], list[Label]] = defaultdict(list)
    for label in labels:
        if label.source == "end_user" and all(answer.user != label.rater for answer in label.answers):
            for answer in label.answers:
                strangers[answer.completion_id, answer.choice].append(label)
    found: list[str] = []
    for votes in strangers.values():
        if len(votes) >= rules.brigade_raters:
            votes.sort(key=lambda label: label.at)
            found += _crowds(votes, rules)
    return found


def _crowds(votes: Sequence[Label], rules: TrustRules) -> list[str]:
    """The votes, given in order of time, that lie within `brigade_seconds` of enough other raters'.

    A window moves over them once, so many strangers on one answer cost no more than as many apart.
    """
    found: list[str] = []
    raters: Counter[str] = Counter()  # of the votes in the window
    first = told = 0  # the window's first vote, and the first that was not yet found
    for i, last in enumerate(votes):
        raters[last.rater] += 1
        while last.at - votes[first].at >= rules.brigade_seconds and first < i:
            raters[votes[first].rater] -= 1
            if not raters[votes[first].rater]:
                del raters[votes[first].rater]
            first += 1
        if len(raters) >= rules.brigade_raters:
            told = max(told, first)
            found += [label.event_id for label in votes[told : i + 1]]
            told = i + 1
    return found
