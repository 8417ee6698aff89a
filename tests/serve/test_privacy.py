"""What a gateway writes of people: nothing without consent, nothing unsealed, nothing for ever."""

from pathlib import Path

import pytest

from feedback.core.erasures import Erasure, parse_erasure
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, Completion
from feedback.opening import open_sealer
from tests.serve.conftest import Gateway, Start
from tests.serve.test_access import add_key, bearer

WORD = "marmalade"  # no id and no key holds it by chance
SECRET = f"my locker is {WORD}"


def raw(gateway: Gateway) -> bytes:
    """Every byte in the data folder, and every record of the log."""
    files = b"".join(path.read_bytes() for path in gateway.data.rglob("*") if path.is_file())
    return files + b"".join(r.value for topic in (COMPLETIONS, FEEDBACK) for r in gateway.records(topic))


def correct(gateway: Gateway, completion_id: str, text: str, user: str) -> str:
    vote = {"kind": "correction", "completion_id": completion_id, "text": text, "user": user}
    answer = gateway.http.post("/v1/feedback", json={**vote, "metadata": {"note": SECRET}})
    assert answer.status_code == 202, answer.text
    feedback_id: str = answer.json()["id"]
    return feedback_id


def test_texts_are_sealed_and_open_with_the_users_key(gateway: Gateway) -> None:
    completion_id = gateway.chat(SECRET, user="ada").json()["id"]
    correct(gateway, completion_id, "Say: " + SECRET, "ada")
    assert WORD.encode() not in raw(gateway)
    assert gateway.completion(completion_id).messages[0]["content"] == SECRET
    (vote,) = gateway.votes()
    assert (vote.text, vote.metadata) == ("Say: " + SECRET, {"note": SECRET})


def test_an_erased_user_cannot_be_read_again(gateway: Gateway) -> None:
    ada, bob = (gateway.chat(SECRET, user=user).json()["id"] for user in ("ada", "bob"))
    correct(gateway, ada, SECRET, "ada")
    answer = gateway.http.delete("/v1/users/ada")
    assert answer.status_code == 200
    pseudonym = gateway.signer.pseudonym("default", "ada")
    assert answer.json()["id"] == pseudonym
    assert answer.json()["deleted"] is True
    closed = gateway.completion(ada)
    assert (closed.messages, closed.prompt_token_ids) == ([], [])
    assert [(c.text, c.token_ids) for c in closed.choices] == [("", [])]
    assert closed.choices[0].length > 0
    assert gateway.votes()[0].text is None
    assert gateway.completion(bob).messages[0]["content"] == SECRET
    (erasure,) = [
        e for e in map(parse_erasure, (r.value for r in gateway.records(RELEASES))) if e is not None
    ]
    assert isinstance(erasure, Erasure)
    assert (erasure.tenant, erasure.user) == ("default", pseudonym)


def test_erasing_is_safe_to_repeat_and_works_by_pseudonym(gateway: Gateway) -> None:
    completion_id = gateway.chat(SECRET, user="ada").json()["id"]
    pseudonym = gateway.signer.pseudonym("default", "ada")
    first = gateway.http.delete(f"/v1/users/{pseudonym}").json()
    second = gateway.http.delete("/v1/users/ada").json()
    assert (first["id"], first["had_texts"]) == (pseudonym, True)
    assert (second["id"], second["had_texts"]) == (pseudonym, False)
    assert gateway.completion(completion_id).messages == []


def test_erasing_a_user_takes_their_stored_answers_along(gateway: Gateway) -> None:
    kept = gateway.chat(SECRET, user="ada", store=True).json()["id"]
    refused = gateway.chat(SECRET, user="ada", store=True, hearken={"consent": False}).json()["id"]
    assert gateway.http.get(f"/v1/chat/completions/{kept}").status_code == 200
    assert gateway.http.get(f"/v1/chat/completions/{refused}").status_code == 404
    gateway.http.delete("/v1/users/ada")
    assert gateway.http.get(f"/v1/chat/completions/{kept}").status_code == 404
    assert WORD.encode() not in raw(gateway)


def test_only_operators_erase(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    chat, operate = add_key(keys, ["chat", "feedback"]), add_key(keys, ["operate"])
    gateway = start()
    assert gateway.http.delete("/v1/users/ada", headers=bearer(chat)).status_code == 403
    assert gateway.http.delete("/v1/users/ada").status_code == 401
    assert gateway.http.delete("/v1/users/ada", headers=bearer(operate)).status_code == 200


@pytest.mark.parametrize(
    ("default", "said", "kept"),
    [
        ("given", None, True),
        ("given", False, False),
        ("given", True, True),
        ("asked", None, False),
        ("asked", True, True),
    ],
)
def test_without_consent_nothing_is_kept_of_the_text(
    start: Start, default: str, said: bool | None, kept: bool
) -> None:
    gateway = start(consent=default)
    options = {} if said is None else {"hearken": {"consent": said}}
    answer = gateway.chat(SECRET, user="ada", **options)
    assert answer.status_code == 200
    logged = gateway.completion(answer.json()["id"])
    assert logged.consent is kept
    assert bool(logged.messages) is kept
    assert bool(logged.prompt_token_ids) is kept
    assert bool(logged.choices[0].text) is kept
    assert logged.choices[0].length == answer.json()["usage"]["completion_tokens"]


def test_a_tenants_key_may_say_that_consent_is_asked_for(start: Start, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", ["chat"], tenant="clinic", consent="asked")
    gateway = start()
    body = {"model": "hearken", "messages": [{"role": "user", "content": SECRET}]}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers=bearer(key))
    logged = gateway.completion(answer.json()["id"])
    assert (logged.tenant, logged.consent, logged.messages) == ("clinic", False, [])


def test_consent_must_be_true_or_false(gateway: Gateway) -> None:
    answer = gateway.chat("hi", hearken={"consent": "yes"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "hearken.consent"


def test_redaction_comes_before_the_log(start: Start) -> None:
    gateway = start(redact="patterns")
    completion_id = gateway.chat("I am ada@example.com", user="ada").json()["id"]
    correct(gateway, completion_id, "Write to bob@example.com", "ada")
    logged = gateway.completion(completion_id)
    assert logged.messages[0]["content"] == "I am [email]"
    assert logged.prompt_token_ids == []  # they would spell the address
    assert logged.choices[0].token_ids != []  # nothing was found in the answer
    assert gateway.votes()[0].text == "Write to [email]"


def test_redaction_reaches_whatever_is_kept(start: Start) -> None:
    gateway = start(redact="patterns", blind_voters=False)
    mail = "ada@example.com"
    chat = {"user": "ada", "store": True, "logprobs": True, "metadata": {"from": mail}}
    completion_id = gateway.chat(f"I am {mail}", **chat).json()["id"]
    vote = {"kind": "thumbs", "completion_id": completion_id, "value": "up", "user": "ada", "tags": [mail]}
    assert gateway.http.post("/v1/feedback", json={**vote, "comment": mail}).status_code == 202
    (logged,) = gateway.votes()
    assert (logged.tags, logged.comment) == (["[email]"], "[email]")
    stored = f"/v1/chat/completions/{completion_id}"
    assert gateway.http.get(stored).json()["metadata"] == {"from": "[email]"}
    assert gateway.http.get(stored + "/messages").json()["data"][0]["content"] == "I am [email]"
    assert mail.encode() not in raw(gateway)


@pytest.mark.parametrize("prompt", [["hi", "I am ada@example.com"], [[5, 6, 7]], [5, 6, 7]])
def test_token_ids_of_prompts_that_no_redactor_could_read_are_not_kept(start: Start, prompt: object) -> None:
    gateway = start(redact="patterns")
    answer = gateway.http.post("/v1/completions", json={"model": "hearken", "prompt": prompt})
    logged = gateway.completion(answer.json()["id"])
    assert logged.prompt_token_ids == []
    assert [choice.prompt_token_ids for choice in logged.choices] == [None] * len(logged.choices)
    assert logged.choices[0].token_ids != []


def test_nobody_is_no_user_to_erase(gateway: Gateway) -> None:
    assert gateway.http.delete("/v1/users/").status_code == 404


def test_nothing_found_is_nothing_changed(start: Start) -> None:
    gateway = start(redact="patterns")
    logged = gateway.completion(gateway.chat("hi", user="ada").json()["id"])
    assert logged.messages[0]["content"] == "hi"
    assert logged.prompt_token_ids != []


def test_a_vault_that_is_away_costs_no_answer_but_no_vote_is_acknowledged(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.chat(SECRET, user="ada")
    (tmp_path / "vault").rename(tmp_path / "elsewhere")
    (tmp_path / "vault").mkdir()  # an empty mount
    answer = gateway.chat(SECRET, user="ada")
    assert answer.status_code == 200
    assert gateway.metric("hearken_completions_unlogged_total") == 1
    assert gateway.metric("hearken_vault_lost") == 1
    assert gateway.is_ready()  # chats are answered all the same
    assert gateway.http.delete("/v1/users/ada").status_code == 503
    vote = {"kind": "comment", "completion_id": answer.json()["id"], "text": SECRET, "user": "ada"}
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 503
    assert gateway.records(FEEDBACK) == []
    (tmp_path / "vault").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "vault")
    assert gateway.metric("hearken_vault_lost") == 0
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 202
    assert len(gateway.completions()) == len(gateway.votes()) == 1


def test_sealed_events_still_say_what_evidence_needs(gateway: Gateway) -> None:
    gateway.chat(SECRET, user="ada")
    (record,) = gateway.records(COMPLETIONS)
    sealed = Completion.model_validate_json(record.value)
    assert sealed.sealed is not None
    assert (sealed.arm, sealed.policy_version, sealed.choices[0].length > 0) == ("live", "base", True)
    opened = open_sealer(gateway.data).open(sealed)
    assert len(opened.choices[0].token_ids) == sealed.choices[0].length
