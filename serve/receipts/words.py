"""What a receipt says of a vote: a word for programs, the version that came of it, a sentence for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from feedback.updates.revisions import REFUSED

Row = dict[str, Any]

_REASONS = {
    "judging": "Its rater is one of those whose votes measure new versions instead of training them.",
    "waiting": "It waits: its rater is new, or sent many at once, or came with others upon one answer.",
    "kept": "It is kept, and teaches nothing: it is about a whole conversation, or a text that was not kept.",
    "erased": "A user whom it concerns was erased; no update uses it any more.",
    "evicted": "Newer votes have taken its place in what the learner remembers.",
    "discarded": "What it is about is no longer in the log, or did not come within a day of the vote.",
}

_KEPT = {
    "comment": "It is kept for people to read; the learner does not learn from words alone.",
    "metric": "It is kept, and teaches nothing: it has no range, its name is that of no objective, or it is "
    "about a whole conversation.",
    "signal": "It is kept, and teaches nothing: its name has no meaning here, signals of this name were not "
    "shown to agree with votes, nobody was shown the answer, or the votes of its rater measure new versions.",
}
"""Why a vote of a kind is kept and no more, where `_REASONS` is not what there is to say."""

_IN_FORCE = ("live", "canary")
"""Statuses of a version that users meet, the better one first."""

_BECAME = {
    "live": "which has been live since {when}",
    "canary": "which some users have tried since {when}",
    "rolled_back": "which was taken back on {when}",
    "replaced": "which was live until a newer one took its place",
    "inconclusive": "which users tried without a verdict, until {when}",
    "refused": "which was refused on {when}",
    "superseded": "which a newer one overtook on {when}",
}
"""What is said of a version by its status; others wait for their trial."""

_KINDS = {"thumbs": "thumb", "comparison": "choice", "metric": "outcome"}


class Standing(NamedTuple):
    """How far a vote has come. status: one word. reason: why not further, if it comes no further. policy: the
    version to name, None when none came of it. sentence: all of it for people."""

    status: str
    reason: str | None
    policy: Row | None
    sentence: str


def standing(vote: Row, uses: Sequence[Row], versions: Sequence[Row]) -> Standing:
    """What became of a vote, by the best that users meet of what it trained.

    uses: what updates did with it, oldest first; versions: those that it shaped, oldest first.
    """
    policy = _best(versions)
    status, reason = _status(vote, uses, policy)
    return Standing(status, reason, policy, reason or _sentence(vote, status, policy))


def standing_of_comment(made: Row, uses: Sequence[Row], versions: Sequence[Row]) -> Standing:
    """What became of a comment, by what was made of it; uses, versions: of that."""
    if made["refused"]:
        why = f"Nothing is learned from it: {REFUSED.get(made['refused'], 'the reason is not known here')}."
        return Standing("refused", why, None, why)
    came = standing(made, uses, versions)
    return came._replace(sentence=f"The answer was revised as the comment asks. {came.sentence}")


def in_force(version: Row) -> bool:
    """Whether users meet the version: it is live, or on trial."""
    return version["status"] in _IN_FORCE


def _best(versions: Sequence[Row]) -> Row | None:
    """The version that is live, else the one on trial, else the newest."""
    for status in _IN_FORCE:
        for version in reversed(versions):
            if version["status"] == status:
                return version
    return versions[-1] if versions else None


def _status(vote: Row, uses: Sequence[Row], policy: Row | None) -> tuple[str, str | None]:
    if vote["retracted"]:
        return "retracted", "It was taken back; what was trained before is not undone."
    complaint = _complaint(vote)
    if complaint is not None:
        return "discarded", complaint
    state = uses[-1]["state"] if uses and uses[-1]["revision"] == vote["revision"] else None
    if state == "erased":
        return state, _REASONS[state]
    if policy is not None and in_force(policy):
        return policy["status"], None
    if state in _REASONS and (state != "evicted" or policy is None):
        return state, _reason(vote, state)
    if policy is not None:
        return "rolled_back" if policy["status"] == "rolled_back" else "shaped", None
    if any(use["state"] == "training" for use in uses):
        return "used", None
    if vote["kind"] == "comment":  # no update needs to say so
        return "kept", _KEPT["comment"]
    if all(vote["answers"]):
        return "joined", "The next update of the reward model will look whether it can learn from it."
    return "accepted", "The completion that it is about has not been seen yet."


def _reason(vote: Row, state: str) -> str:
    """Why a vote comes no further than a state, by its kind."""
    return _KEPT.get(vote["kind"], _REASONS[state]) if state == "kept" else _REASONS[state]


def _complaint(vote: Row) -> str | None:
    """Why a vote can never be used, or None."""
    for target, answers in zip(vote["targets"], vote["answers"], strict=True):
        for answer in answers:
            if answer["tenant"] != vote["tenant"]:
                return "The completion belongs to another tenant."
            if target.episode_id is None and target.choice >= answer["choices"]:
                return f"The completion has no choice {target.choice}."
    return None


def _sentence(vote: Row, status: str, policy: Row | None) -> str:
    """What is said where nothing keeps the vote from going on."""
    yours = f"Your {_KINDS.get(vote['kind'], vote['kind'])}"
    if policy is None or status == "used":
        return f"{yours} taught the reward model; no version has come of it yet."
    when = f"{datetime.fromtimestamp(policy['status_at'], UTC):%Y-%m-%d %H:%M} UTC"
    became = _BECAME.get(policy["status"], "which has not met users yet").format(when=when)
    return f"{yours} trained {policy['version']}, {became}."
