"""What became of versions, in the words that all reports share."""

from collections.abc import Mapping

from deploy.history.states import Outcome

BECAME: Mapping[Outcome, str] = {
    "accepted": "accepted, and waits for its trial",
    "shadowed": "shadowed: it answers prompts of users, who do not see it",
    "started": "put on trial",
    "raised": "put on trial",
    "promoted": "promoted",
    "finished": "promoted, and its holdback is over",
    "harmful": "rolled back by votes",
    "guardrail": "rolled back by a guardrail",
    "rolled_back": "rolled back by an operator",
    "inconclusive": "taken back without a clear result",
    "refused": "refused before any trial",
    "superseded": "superseded by a newer candidate",
    "pinned": "pinned by an operator",
}
"""Outcome -> what is said of a version after "is" or "was"."""
