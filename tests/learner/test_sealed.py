"""What the learner saves of users is under their keys, and gone with them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from feedback.core.events import Completion, Feedback
from feedback.joining.join import Joiner
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from learner.state.sealed import seal, unseal
from learner.votes.labels import LabelStore
from tests.feedback.examples import completion, record, thumb

SAID = (b"Zanzibar", b"515151", b"515152", b"marmalade")


def about(name: str, user: str, word: str) -> tuple[Completion, Feedback]:
    asked = completion(name)
    choice = asked.choices[0].model_copy(update={"text": f"You said {word}.", "token_ids": [515151, 2]})
    said = {"user": user, "prompt_token_ids": [515152, 7], "choices": [choice]}
    comment = {"comment": f"{word}, please", "tags": [word], "metadata": {"where": word}}
    return asked.model_copy(update=said), thumb(name, 1.0, 1, rater=user).model_copy(update=comment)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault", b"s" * 32)


def remembered(vault: Vault, *, sealed: bool = True, erased: str | None = None) -> dict[str, Any]:
    """The state of a learner who read what Ada and Bob said, and saves it."""
    sealer, labels = Sealer(vault), LabelStore(0.0)
    joiner = Joiner(sealer=sealer)
    for name, user, word in (("c1", "u_ada", "Zanzibar"), ("c2", "u_bob", "marmalade")):
        for event in about(name, user, word):
            labels.add(joiner.feed([record(sealer.seal(event) if sealed else event)]))  # type: ignore[type-var]
    if erased is not None:
        sealer.erase("default", erased)
    return seal({"joiner": joiner.state(), "labels": labels.state()}, sealer)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """As it is read from a file."""
    read: dict[str, Any] = orjson.loads(orjson.dumps(state))
    return read


def test_nothing_can_be_read_in_a_checkpoint_and_nothing_is_lost(vault: Vault) -> None:
    state = remembered(vault)
    raw = orjson.dumps(state)
    assert [word for word in SAID if word in raw] == []
    opened = unseal(plain(state), Sealer(vault))
    assert [word for word in SAID if word not in orjson.dumps(opened)] == []
    joiner, labels = Joiner.from_state(opened["joiner"]), LabelStore(0.0)
    labels.restore(opened["labels"])
    again = seal({"joiner": joiner.state(), "labels": labels.state()}, Sealer(vault))
    assert plain(again)["joiner"] == plain(state)["joiner"]
    assert [vote.comment for vote in labels.votes] == ["Zanzibar, please", "marmalade, please"]
    assert [answer.token_ids for answer in joiner.completions["c1"]] == [(515151, 2)]


def test_an_erasure_reaches_a_checkpoint_that_is_there_already(vault: Vault) -> None:
    state = plain(remembered(vault))
    Sealer(vault).erase("default", "u_ada")
    Sealer(vault).seal(about("c3", "u_ada", "Zanzibar")[1])  # she is back, with a new key
    opened = orjson.dumps(unseal(state, Sealer(vault)))
    assert b"Zanzibar" not in opened
    assert b"marmalade" in opened


def test_a_user_who_was_erased_since_is_not_saved(vault: Vault) -> None:
    raw = orjson.dumps(remembered(vault, erased="u_ada"))
    assert [word for word in SAID if word in raw] == []
    assert b"Zanzibar" not in orjson.dumps(unseal(plain(orjson.loads(raw)), Sealer(vault)))


def test_what_came_without_a_seal_is_saved_without(vault: Vault) -> None:
    state = plain(remembered(vault, sealed=False))
    assert state["texts"] == []
    assert b"Zanzibar" in orjson.dumps(state)
    assert unseal(plain(state), Sealer(vault)) == state
