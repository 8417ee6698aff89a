"""What a label says about two policies: a thumb on an answer of one of them, or a choice between both."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from deploy.history.scope import Scope, Side
from feedback.joining.join import Answer, Label

Kind = Literal["thumbs", "comparison"]


class Vote(NamedTuple):
    """One revision of one vote; `value` is 1 for pleased (or for preferring the new policy), 0 for not.

    None: the vote was taken back. bucket: whether the answer was of one of the two equal buckets.
    """

    at: float
    event_id: str
    revision: int
    kind: Kind
    value: float | None
    bucket: bool = True


class Opinion(NamedTuple):
    """A vote, and on which side the user is who gave it."""

    side: Side
    user: str
    vote: Vote


class Window(NamedTuple):
    """What a user said within a window: the mean of thumbs, the mean of comparisons, None for none of them.

    votes: how many there were, of the two buckets.
    """

    closes_at: float
    thumbs: float | None
    preference: float | None
    votes: int


def voted_answer(label: Label) -> tuple[Answer, float] | None:
    """The answer that a label judges and the value it gives it, or None when it is no evidence about an arm.

    Evidence is what end users say in thumbs, ratings and comparisons. Rankings, corrections, comments and
    metrics have no value to compare arms by, what people did (signals) may mean anything, and an opinion of a
    whole episode is of no one answer. It counts for the user who got the answer: the vote names a signed id
    that only they were given, while many an app leaves the user's name out of it. In a comparison the
    "answer" comes from the user's arm and the "reference" from the live policy.
    """
    answer = None if label.retracted else _judged(label)
    return None if answer is None else (answer, _value(label, answer))


def opinion(label: Label, scope: Scope) -> Opinion | None:
    """What a label says in a comparison of two versions, or None. A retraction is one too, without a value.

    A choice between two answers counts where one is of each version: two answers of the same policy say
    nothing about the other. A thumb counts for the version that answered, in whichever arm.
    """
    answer = _judged(label)
    if answer is None:
        return None
    side = scope.side(answer.policy_version, answer.table_epoch)
    if side is None:
        return None
    value = None if label.retracted else _value(label, answer)
    kind: Kind = "comparison" if label.kind == "comparison" else "thumbs"
    if kind == "comparison":
        other = next(each for each in label.answers if each is not answer)
        if scope.side(other.policy_version, other.table_epoch) in (None, side):
            return None
        if value is not None and side == "old":
            value = 1.0 - value
    bucket = scope.bucket(answer.arm, answer.policy_version, answer.table_epoch) is not None
    return Opinion(side, answer.exposed, Vote(label.at, label.event_id, label.revision, kind, value, bucket))


def _judged(label: Label) -> Answer | None:
    """The answer that a label, or the retraction of one, is evidence about.

    None where it was chosen, by what the answers say, to be voted on: which answers are heard of then is no
    chance, so neither a choice between them nor a thumb on one says how good a policy is.
    """
    if label.source != "end_user" or label.whole_episode or label.is_selected:
        return None
    roles = [answer.role for answer in label.answers]
    if label.kind in ("thumbs", "rating"):
        fits = roles == ["answer"]
    else:
        fits = label.kind == "comparison" and sorted(roles) == ["answer", "reference"]
    return label.answers[roles.index("answer")] if fits else None


def _value(label: Label, answer: Answer) -> float:
    """What a label says of its answer; in a comparison, whether it is the better one."""
    turned = label.kind == "comparison" and answer is not label.answers[0]
    return 1.0 - label.value if turned else label.value


def close_windows(votes: Iterable[Vote], window_seconds: float, windows_per_user: int) -> list[Window]:
    """A user's windows, open ones included.

    A window opens with a vote and takes all that follow within `window_seconds`. A vote that is changed
    before the closing counts with its latest revision, and not at all when that takes it back; a change after
    the closing is ignored. A window in which every vote was taken back is none.
    """
    windows: list[Window] = []
    left = sorted(votes, key=lambda vote: vote[:3])
    if len(left) == 1:  # of most users; it comes to the same in a quarter of the time
        return _window_of(left[0], window_seconds)[:windows_per_user]
    while left and len(windows) < windows_per_user:
        closes_at = left[0].at + window_seconds
        latest: dict[str, Vote] = {}
        for vote in left:
            known = latest.get(vote.event_id)
            if vote.at < closes_at and (known is None or vote.revision > known.revision):
                latest[vote.event_id] = vote
        counted = [vote for vote in latest.values() if vote.value is not None]
        if counted:
            means = (_mean(counted, "thumbs"), _mean(counted, "comparison"))
            windows.append(Window(closes_at, *means, sum(vote.bucket for vote in counted)))
        left = [v for v in left if v.at >= closes_at and not (counted and v.event_id in latest)]
    return windows


def _window_of(vote: Vote, window_seconds: float) -> list[Window]:
    """The window of a user with one vote."""
    if vote.value is None:
        return []
    thumbs, preference = (vote.value, None) if vote.kind == "thumbs" else (None, vote.value)
    return [Window(vote.at + window_seconds, thumbs, preference, int(vote.bucket))]


def _mean(votes: Iterable[Vote], kind: Kind) -> float | None:
    values = [vote.value for vote in votes if vote.kind == kind and vote.value is not None]
    return math.fsum(values) / len(values) if values else None
