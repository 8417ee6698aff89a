"""The learner's state with its texts sealed: an erased user cannot be read in a checkpoint either.

A checkpoint holds what the learner remembers of users, as text and as token ids. All that is of one user
becomes one text under that user's key (see `feedback.privacy.sealing`), so erasing the key erases it at once:
also in copies of the checkpoint, and while no learner runs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.privacy.sealing import Sealer

Json = dict[str, Any]
Owner = tuple[str, str]
"""Tenant and pseudonym."""

_ANSWER: Mapping[str, Any] = {"text": "", "token_ids": (), "prompt_token_ids": ()}
_ROLLOUT: Mapping[str, Any] = {"token_ids": (), "prompt_token_ids": ()}
_LABEL: Mapping[str, Any] = {"text": None, "comment": None, "tags": ()}
_VOTE: Mapping[str, Any] = {**_LABEL, "metadata": {}}


def seal(state: Json, sealer: Sealer) -> Json:
    """`state`, changed in place: texts whose owner has a key are sealed, those of an erased owner left out.

    An owner who never had a key is one whose events were written without seals; so is this.
    """
    said: dict[Owner, list[list[Any] | None]] = {}
    for owner, part, blank in _parts(state):
        texts = [part[name] for name in blank]
        said.setdefault(owner, []).append(texts if any(texts) else None)
    sealed = {owner: sealer.seal_texts(*owner, texts) for owner, texts in said.items() if any(texts)}
    for owner, part, blank in _parts(state):
        if sealed.get(owner) is not None or sealer.was_sealed(*owner):
            part.update(blank)
    state["texts"] = [[*owner, text] for owner, text in sealed.items() if text is not None]
    return state


def unseal(state: Json, sealer: Sealer) -> Json:
    """`state`, changed in place: the texts are back, but those of owners who were erased."""
    kept = state.get("texts", [])
    found = ((tenant, user, sealer.open_texts(tenant, user, text)) for tenant, user, text in kept)
    said = {(tenant, user): iter(texts) for tenant, user, texts in found if texts is not None}
    for owner, part, blank in _parts(state):
        texts = next(said[owner]) if owner in said else None
        if texts is not None:
            part.update(zip(blank, texts, strict=True))
    return state


def _parts(state: Json) -> Iterator[tuple[Owner, Json, Mapping[str, Any]]]:
    """Everything with texts, always in the same order: its owner, itself, and what it is without them."""
    joined = state.get("joiner", {})  # nothing of it where a file has it (see `learner.state.memory`)
    for answers in joined.get("completions", ()):
        for answer in answers:
            yield (answer["tenant"], answer["user"]), answer, _ANSWER
    for vote in joined.get("votes", ()):
        yield (vote["tenant"], vote["rater"]), vote, _VOTE
    for label in state.get("labels", {}).get("labels", ()):
        yield (label["tenant"], label["rater"]), label, _LABEL
        for answer in label["answers"]:
            yield (answer["tenant"], answer["user"]), answer, _ANSWER
    for rollout in state.get("of_live", []):
        yield (rollout["tenant"], rollout["user"]), rollout, _ROLLOUT
