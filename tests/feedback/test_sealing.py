"""Sealed events say who, when and how long, never what; their key opens them, its erasure closes them."""

from pathlib import Path

import pytest

from feedback.core.events import WORDS_OF_VOTES, Choice, Completion, Feedback, Target
from feedback.privacy.sealing import SealBroken, Sealer
from feedback.privacy.vault import Vault
from feedback.privacy.vault_keys import VaultLost

COMPLETION = Completion(
    event_id="chatcmpl-1",
    at=1.0,
    completion_id="chatcmpl-1",
    conversation="u_1",
    user="u_1",
    policy_version="policy-1-aa",
    arm="canary",
    messages=[{"role": "user", "content": "my secret question"}],
    prompt_token_ids=[4242, 4243],
    choices=[
        Choice(text="a secret answer", token_ids=[515151, 7], logprobs=[-0.5, -0.1], finish_reason="stop"),
        Choice(index=1, text=" ", token_ids=[515152], logprobs=[-0.5], finish_reason="length"),
    ],
)
VOTE = Feedback(
    event_id="fb-1",
    at=1.0,
    revision=3,
    kind="thumbs",
    rater="u_1",
    targets=[Target(completion_id="chatcmpl-1")],
    value=1.0,
    label="up",
    metadata={"note": "my secret note"},
)


PLAIN = """
    schema_version event_id at tenant sealed revision kind rater targets value label source weight occurred_at
    reasons amount scale direction name groups presented shown retracts revises refused key_id
"""
"""What stays readable of a vote: numbers, ids, and words of a few."""


def test_every_field_of_a_vote_is_known_as_words_or_as_none() -> None:
    known = sorted((*WORDS_OF_VOTES, *PLAIN.split()))
    assert known == sorted(Feedback.model_fields), "a new field: are there words in it?"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path, b"s" * 32)


@pytest.fixture
def sealer(vault: Vault) -> Sealer:
    return Sealer(vault)


def test_sealed_events_open_to_what_they_were(sealer: Sealer, tmp_path: Path) -> None:
    for event in (COMPLETION, VOTE):
        stored = type(event).model_validate_json(sealer.seal(event).model_dump_json())
        other = Sealer(Vault(tmp_path, b"s" * 32))
        assert other.open(stored) == event


def test_a_vote_is_sealed_as_json_too(sealer: Sealer) -> None:
    vote = VOTE.model_dump(mode="json")
    owner = sealer.owner_of_vote(vote)
    assert owner == sealer.owner(VOTE) == "default/u_1"
    (key,) = sealer.keys({owner: None}).result().values()
    sealed = sealer.seal_vote_with(vote, key)
    assert "metadata" not in sealed
    assert sealer.open(Feedback.model_validate(sealed)) == VOTE
    bare = {**vote, "metadata": {}}
    assert sealer.owner_of_vote(bare) is None
    assert sealer.seal_vote_with(bare, key) is bare


def test_what_was_said_before_an_erasure_is_blank_after_it(sealer: Sealer) -> None:
    since = sealer.instant()
    sealer.erase("default", "u_1")
    (key,) = sealer.keys({"default/u_1": since}).result().values()
    assert key is None
    blank = sealer.seal_with(COMPLETION, key)
    assert (blank.messages, blank.prompt_token_ids) == ([], [])
    assert [(c.text, c.token_ids, c.length) for c in blank.choices] == [("", [], 2), ("", [], 1)]
    assert blank.sealed is None
    assert "secret" not in str(sealer.seal_vote_with(VOTE.model_dump(mode="json"), key))


def test_an_import_under_way_writes_nothing_of_one_who_is_erased(sealer: Sealer, tmp_path: Path) -> None:
    sealer.erase("default", "u_2")  # long ago
    importer = Sealer(Vault(tmp_path, b"s" * 32))
    since = importer.begin()
    sealer.erase("default", "u_1")
    other = COMPLETION.model_copy(update={"user": "u_2"})
    blank, kept = importer.seal_all([(COMPLETION, False), (other, False)], since)
    assert isinstance(blank, Completion)
    assert (blank.sealed, blank.messages) == (None, [])
    assert sealer.open(kept) == other


def test_what_nobody_said_needs_no_key_of_its_own(sealer: Sealer, vault: Vault, tmp_path: Path) -> None:
    named = COMPLETION.model_copy(update={"user": "u_2"})
    sealed = sealer.seal_all([(COMPLETION, True), (named, False), (COMPLETION, True)])
    assert vault.key("default/u_1") is None
    assert vault.key("default/u_2") is not None
    reader = Sealer(Vault(tmp_path, b"s" * 32))
    assert [reader.open(each) for each in sealed] == [COMPLETION, named, COMPLETION]
    kept = reader.seal_texts("default", "u_1", ["what the learner remembers"])
    assert kept is not None
    assert Sealer(Vault(tmp_path, b"s" * 32)).open_texts("default", "u_1", kept) == [
        "what the learner remembers"
    ]
    reader.erase("default", "u_1")  # by the pseudonym in a report
    assert reader.open(sealed[0]) == sealed[0]
    assert reader.open(sealed[1]) == named


def test_a_reader_stops_at_the_seal_of_a_vault_that_is_not_here(sealer: Sealer, tmp_path: Path) -> None:
    sealed = sealer.seal(COMPLETION)
    kept = sealer.seal_texts("default", "u_1", ["kept"])
    assert kept is not None
    empty = Sealer(Vault(tmp_path / "empty", b"s" * 32))
    for ask in (
        lambda: empty.open(sealed),
        lambda: empty.open_texts("default", "u_1", kept),
        lambda: empty.check(sealed.sealed),
    ):
        with pytest.raises(VaultLost):
            ask()
    empty.check(None)
    sealer.check(sealed.sealed)


def test_what_was_sealed_before_vaults_had_ids_opens(sealer: Sealer) -> None:
    sealed = sealer.seal(COMPLETION)
    assert sealed.sealed is not None
    old = sealed.model_copy(update={"sealed": sealed.sealed.partition(".")[2]})
    assert sealer.open(old) == COMPLETION


def test_texts_of_before_an_erasure_are_not_sealed_again_with_a_new_key(
    sealer: Sealer, tmp_path: Path
) -> None:
    reader = Sealer(Vault(tmp_path, b"s" * 32))  # a learner that has not read of the erasure yet
    reader.open(sealer.seal(COMPLETION))
    sealer.erase("default", "u_1")
    sealer.seal(VOTE)  # they are back
    assert reader.seal_texts("default", "u_1", ["a secret answer"]) is None
    assert reader.was_sealed("default", "u_1")


def test_nothing_of_the_text_is_outside_of_the_seal(sealer: Sealer) -> None:
    stored = sealer.seal(COMPLETION).model_dump_json() + sealer.seal(VOTE).model_dump_json()
    assert not [word for word in ("secret", "4242", "4243", "515151", "-0.5") if word in stored]


def test_what_evidence_needs_stays_readable(sealer: Sealer) -> None:
    sealed = sealer.seal(COMPLETION)
    assert (sealed.user, sealed.arm, sealed.policy_version) == ("u_1", "canary", "policy-1-aa")
    assert [(c.index, c.length, c.is_blank, c.finish_reason) for c in sealed.choices] == [
        (0, 2, False, "stop"),
        (1, 1, True, "length"),
    ]
    vote = sealer.seal(VOTE)
    assert (vote.value, vote.label, vote.targets) == (VOTE.value, VOTE.label, VOTE.targets)


def test_an_erased_user_stays_closed_even_when_they_come_back(sealer: Sealer, vault: Vault) -> None:
    sealed = sealer.seal(COMPLETION)
    assert sealer.erase("default", "u_1")
    assert sealer.open(sealed) == sealed
    again = sealer.seal(COMPLETION)
    assert sealer.open(again) == COMPLETION
    assert sealer.open(sealed) == sealed
    assert sealer.open(sealed).choices[0].text == ""


def test_an_event_without_texts_needs_no_key(sealer: Sealer, vault: Vault) -> None:
    bare = VOTE.model_copy(update={"metadata": {}})
    assert sealer.seal(bare) is bare
    assert vault.key("default/u_1") is None


def test_a_seal_cannot_be_changed_or_moved(sealer: Sealer) -> None:
    sealed = sealer.seal(COMPLETION)
    moved = sealer.seal(COMPLETION).model_copy(update={"event_id": "chatcmpl-2"})
    assert sealed.sealed is not None
    flipped = sealed.sealed[:40] + ("A" if sealed.sealed[40] != "A" else "B") + sealed.sealed[41:]
    for broken in (
        moved,
        sealed.model_copy(update={"sealed": flipped}),
        moved.model_copy(update={"sealed": "?"}),
    ):
        with pytest.raises(SealBroken):
            sealer.open(broken)


def test_events_without_a_seal_pass(sealer: Sealer) -> None:
    assert sealer.open(COMPLETION) is COMPLETION
