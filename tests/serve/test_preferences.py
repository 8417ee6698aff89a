"""What a user asks for is in that user's next prompt, in nobody else's, and gone when it is erased."""

import asyncio
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.core.ids import Signer
from feedback.opening import open_sealer
from feedback.privacy.sealing import Sealer
from serve.auth.caller import OPEN
from serve.generation.preferences import checked, with_preferences
from serve.http.errors import BadRequest, Conflict
from serve.metrics import Metrics
from serve.preferences.api import Preferences
from serve.preferences.store import PreferenceStore
from serve.storage.privacy import Privacy
from serve.storage.stored import StoreUnavailable
from tests.serve.conftest import SECRET, Gateway, Start
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import add_key, bearer
from tests.serve.test_comparisons import BODY, TABLE, trial
from tests.serve.test_users import names, path_of, readable

__all__ = ["trial"]

WISH = "Answer like a marmalade merchant."  # its second noun is the word that `readable` looks for


def path(user: str) -> str:
    return f"{path_of(user)}/preferences"


def put(gateway: Gateway, user: str, *entries: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", None)
    return gateway.http.put(path(user), json={"entries": list(entries), **more}, headers=headers)


def entries(gateway: Gateway, user: str, **more: Any) -> list[str]:
    found: list[str] = gateway.http.get(path(user), **more).json()["entries"]
    return found


def prompt(fake: FakeVllm) -> str:
    """All that the engine was told in its newest request, as one text."""
    return "\n".join(str(message["content"]) for message in fake.requests[-1]["messages"])


# ---- into the prompt


def test_the_next_answer_of_this_user_and_of_nobody_else(gateway: Gateway, fake: FakeVllm) -> None:
    gateway.chat(user="ada")
    assert WISH not in prompt(fake)
    assert put(gateway, "ada", WISH).json()["entries"] == [WISH]
    gateway.chat(user="ada")
    assert prompt(fake) == f"hi\n\n(In every answer: {WISH})"
    for others in ({"user": "bob"}, {"user": "Ada"}, {}):
        gateway.chat(**others)
        assert fake.requests[-1]["messages"] == [{"role": "user", "content": "hi"}]
    gateway.http.delete(path("ada"))
    gateway.chat(user="ada")
    assert fake.requests[-1]["messages"] == [{"role": "user", "content": "hi"}]


def test_another_tenants_user_of_the_same_name_is_another(
    start: Start, tmp_path: Path, fake: FakeVllm
) -> None:
    keys = tmp_path / "keys.json"
    ours, theirs = (bearer(add_key(keys, ["chat"], tenant=name)) for name in ("acme", "other"))
    votes = bearer(add_key(keys, ["feedback", "operate"], tenant="acme"))
    gateway = start()
    assert put(gateway, "ada", WISH, headers=ours).status_code == 200
    assert (entries(gateway, "ada", headers=ours), entries(gateway, "ada", headers=theirs)) == ([WISH], [])
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "user": "ada"}
    gateway.http.post("/v1/chat/completions", json=body, headers=theirs).raise_for_status()
    assert WISH not in prompt(fake)
    gateway.http.post("/v1/chat/completions", json=body, headers=ours).raise_for_status()
    assert WISH in prompt(fake)
    gateway.http.delete(path("ada"), headers=theirs)
    assert entries(gateway, "ada", headers=ours) == [WISH]
    assert gateway.http.get(path("ada")).status_code == 401
    assert put(gateway, "ada", "x", headers=votes).status_code == 403


def test_every_api_of_chats_has_them_and_the_log_has_what_the_engine_got(
    gateway: Gateway, fake: FakeVllm
) -> None:
    put(gateway, "ada", WISH)
    message = {"role": "user", "content": "hi"}
    chat: dict[str, Any] = {"model": "hearken", "messages": [message], "user": "ada"}
    claude = {"model": "hearken", "messages": [message], "max_tokens": 9, "metadata": {"user_id": "ada"}}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat | {"stream": True}),
        ("/v1/chat/completions", {**chat, "n": 2, "hearken": {"compare": True}}),
        ("/v1/comparisons", chat),
        ("/v1/messages", claude),
        ("/v1/responses", {"model": "hearken", "input": "hi", "user": "ada"}),
    ]
    for url, body in asked:
        before = len(fake.requests)
        gateway.http.post(url, json=body).raise_for_status()
        assert len(fake.requests) > before
        for request in fake.requests[before:]:
            (told,) = request["messages"]
            assert told == {"role": "user", "content": f"hi\n\n(In every answer: {WISH})"}, url
    logged = [completion.messages for completion in gateway.completions()]
    assert logged == [fake.requests[-1]["messages"]] * 7  # a comparison has two
    gateway.http.post("/v1/completions", json={"model": "hearken", "prompt": "hi", "user": "ada"})
    assert WISH not in str(fake.requests[-1])


def test_both_sides_of_a_comparison_have_the_same_list(trial: Gateway, fake: FakeVllm) -> None:
    """So an answer under preferences is evidence like any other: arms differ in their policy alone."""
    user = trial.user_of_arm("canary", TABLE)
    put(trial, user, WISH)
    trial.http.post("/v1/comparisons", json=BODY | {"user": user}).raise_for_status()
    one, other = fake.requests[-2:]
    assert {one["model"], other["model"]} == {TABLE.canary, TABLE.live}
    assert one["messages"] == other["messages"]
    assert WISH in str(one["messages"])


def test_what_is_stored_is_the_clients_and_a_later_turn_has_the_list_once(
    gateway: Gateway, fake: FakeVllm
) -> None:
    put(gateway, "ada", WISH)
    first = gateway.http.post("/v1/responses", json={"model": "hearken", "input": "hi", "user": "ada"}).json()
    again = {"model": "hearken", "input": "and?", "user": "ada", "previous_response_id": first["id"]}
    gateway.http.post("/v1/responses", json=again).raise_for_status()
    assert str(fake.requests[-1]["messages"]).count(WISH) == 1
    stored = gateway.chat(user="ada", store=True).json()["id"]
    told = gateway.http.get(f"/v1/chat/completions/{stored}/messages").json()["data"]
    assert [each["content"] for each in told] == ["hi"]


def test_a_request_may_leave_them_out(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", WISH)
    gateway.chat(user="ada", hearken={"preferences": False})
    assert WISH not in prompt(fake)
    gateway.chat(user="ada", hearken={"preferences": True})
    assert WISH in prompt(fake)
    assert gateway.chat(user="ada", hearken={"preferences": "no"}).status_code == 400


USER = {"role": "user", "content": "hi"}


SAID = {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "Sell parcels."}
TOOL = {"role": "tool", "content": "42", "tool_call_id": "a"}


def test_they_stand_in_the_users_newest_words_and_nowhere_else() -> None:
    messages = [SYSTEM, USER, SAID, {"role": "user", "content": "and?"}, TOOL]
    made = with_preferences(messages, ["Be brief", "Be kind."])
    assert made[3] == {"role": "user", "content": "and?\n\n(In every answer: Be brief. Be kind.)"}
    assert made[:3] + made[4:] == messages[:3] + messages[4:]
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    (told,) = with_preferences([{"role": "user", "content": parts}], ["Be brief."])
    assert told["content"][:2] == parts
    assert told["content"][2]["text"].endswith("\n(In every answer: Be brief.)")
    assert len(parts) == 2
    assert with_preferences([SYSTEM, SAID], ["Be brief."]) == [SYSTEM, SAID]


@given(st.lists(st.sampled_from([USER, SAID, SYSTEM, TOOL]), min_size=1), st.lists(st.text(), max_size=4))
def test_no_list_changes_another_message(messages: list[dict[str, Any]], texts: list[str]) -> None:
    before = [dict(message) for message in messages]
    made = with_preferences(messages, texts)
    assert messages == before
    assert len(made) == len(messages)
    changed = [i for i, pair in enumerate(zip(messages, made, strict=True)) if pair[0] != pair[1]]
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    assert changed == (asked[-1:] if texts else [])
    for text in texts if asked else ():
        assert text in made[asked[-1]]["content"]


# ---- what is taken


@given(st.lists(st.text(max_size=30), max_size=6))
def test_an_entry_is_one_line_within_its_bounds_or_refused(texts: list[str]) -> None:
    try:
        kept = checked(texts, 4, 20)
    except BadRequest:
        return
    assert len(kept) <= 4
    for entry in kept:
        assert 0 < len(entry) <= 20
        assert entry == " ".join(entry.split())
        assert len(entry.splitlines()) == 1
    assert {" ".join(text.split()) for text in texts} == set(kept)


def test_bounds_are_told(start: Start) -> None:
    gateway = start(preference_entries=2, preference_chars=12)
    told = gateway.http.get(path("ada")).json()
    assert told == {"object": "preferences", "entries": [], "max_entries": 2, "max_chars": 12}
    for sent, param, words in (
        (["a", "b", "c"], "entries", "at most 2"),
        (["a", "x" * 13], "entries[1]", "has 13 characters"),
        (["a", " \n"], "entries[1]", "empty"),
        (["a\x00"], "entries[0]", "control"),
    ):
        error = put(gateway, "ada", *sent).json()["error"]
        assert (error["param"], words in error["message"]) == (param, True), error
    assert put(gateway, "ada", " Be  \n brief ", "Be brief").json()["entries"] == ["Be brief"]
    assert gateway.http.put(path("ada"), json={"entries": "x"}).json()["error"]["param"] == "entries"
    assert gateway.http.put(path("ada"), json={}).json()["error"]["param"] == "entries"
    assert put(gateway, "x" * 513, "a").status_code == 400
    assert gateway.http.get("/v1/users//preferences").status_code == 404
    assert entries(gateway, "ada") == ["Be brief"]


def test_none_are_kept_where_there_may_be_none(start: Start, fake: FakeVllm) -> None:
    put(start(), "ada", WISH).raise_for_status()
    gateway = start(preference_entries=0)
    gateway.chat(user="ada")
    assert WISH not in prompt(fake)
    assert "preference_entries is 0" in put(gateway, "ada", "x").json()["error"]["message"]


def test_consent_comes_first(start: Start) -> None:
    gateway = start(consent="asked")
    refused = put(gateway, "ada", WISH)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "consent_needed")
    assert put(gateway, "ada", WISH, consent=False).status_code == 403
    assert put(gateway, "ada", WISH, consent=True).json()["entries"] == [WISH]
    assert readable(gateway) == []  # what is kept is sealed
    assert start().http.put(path("ada"), json={"entries": ["x"], "consent": False}).status_code == 403


def test_redaction_comes_before_the_disk_and_is_shown(start: Start) -> None:
    gateway = start(redact="patterns")
    kept = put(gateway, "ada", "Sign with ada@example.com.").json()["entries"]
    assert kept == entries(gateway, "ada") == ["Sign with [email]."]


# ---- kept, and forgotten


def test_another_gateway_knows_of_a_change_at_once(start: Start, fake: FakeVllm) -> None:
    one, other = start(), start()
    for number in range(5):
        for gateway in (one, other):
            gateway.chat(user="ada")
        put(one, "ada", f"Wish {number}.")
        for gateway in (other, one):
            gateway.chat(user="ada")
            assert prompt(fake) == f"hi\n\n(In every answer: Wish {number}.)"
    other.http.delete(path("ada"))
    one.chat(user="ada")
    assert "Wish" not in prompt(fake)


def test_an_erased_user_has_none_and_one_who_comes_back_begins_anew(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", WISH)
    gateway.chat(user="ada")
    assert gateway.http.get(path_of("ada")).json()["preferences"] == 1
    answer = gateway.http.delete(path_of("ada")).json()
    assert (answer["deleted"], answer["preferences"]) == (True, 1)
    gateway.chat(user="ada")
    assert WISH not in prompt(fake)
    assert entries(gateway, "ada") == []
    assert gateway.http.get(path_of("ada")).json()["preferences"] == 0
    put(gateway, "ada", "Be brief.")
    assert entries(gateway, "ada") == ["Be brief."]
    assert gateway.http.delete(path_of("ada")).json()["found"] is True


def test_a_user_who_only_has_a_list_is_known(gateway: Gateway) -> None:
    put(gateway, "ada", WISH)
    assert gateway.http.get(path_of("ada")).json()["found"] is True
    assert gateway.http.delete(path_of("ada")).json()["deleted"] is True
    assert entries(gateway, "ada") == []


def test_whatever_the_name_its_list_goes_and_nobody_elses(gateway: Gateway) -> None:
    chance = random.Random(7)
    people = [name for name in dict.fromkeys(names(chance, 40)) if name.strip(".")]
    people += ["preferences", "x/preferences", "/preferences"]
    for i, name in enumerate(people):
        assert put(gateway, name, f"Wish {i}.").json()["entries"] == [f"Wish {i}."], repr(name)
    left = dict(enumerate(people))
    for i, name in chance.sample(list(left.items()), len(people)):
        by_user = chance.random() < 0.5
        answer = gateway.http.delete(path_of(name) if by_user else path(name))
        assert answer.json()["object"] == ("user.deleted" if by_user else "preferences"), repr(name)
        del left[i]
        assert {entry for each in people for entry in entries(gateway, each)} == {
            f"Wish {number}." for number in left
        }, repr(name)


def test_a_name_that_no_path_can_have_goes_into_the_query(gateway: Gateway, fake: FakeVllm) -> None:
    there = {"params": {"name": ".."}}
    gateway.http.put("/v1/users//preferences", json={"entries": [WISH]}, **there).raise_for_status()
    gateway.chat(user="..")
    assert WISH in prompt(fake)
    assert gateway.http.delete("/v1/users//preferences", **there).json()["entries"] == []


def test_a_list_whose_request_began_before_an_erasure_is_not_kept(tmp_path: Path) -> None:
    sealer, signer = sealer_of(tmp_path), Signer(SECRET)
    store = PreferenceStore(tmp_path / "vault", sealer)
    preferences = Preferences(signer, Privacy(signer, sealer, None), store, (10, 200), Metrics())
    body = b'{"entries": ["Be brief."]}'

    async def story() -> None:
        began = sealer.begin()
        await preferences.put("ada", {}, body, OPEN, began)
        sealer.erase("default", signer.pseudonym("default", "ada"))
        with pytest.raises(Conflict, match="erased"):
            await preferences.put("ada", {}, body, OPEN, began)
        assert (await preferences.show("ada", {}, OPEN))["entries"] == []
        await preferences.put("ada", {}, body, OPEN, sealer.instant())
        assert (await preferences.show("ada", {}, OPEN))["entries"] == ["Be brief."]

    asyncio.run(story())


def test_a_key_of_before_an_erasure_seals_nothing_that_opens(tmp_path: Path) -> None:
    """A change that had its key when the user was erased."""
    sealer = sealer_of(tmp_path)
    store = PreferenceStore(tmp_path / "vault", sealer)
    key = sealer.keys({"acme/ada": None}).result()["acme/ada"]
    assert key is not None
    sealer.erase("acme", "ada")
    store.change("acme", "ada", key, lambda _: (WISH,))
    assert store.read("acme", "ada") == ()
    assert sealer.keys({"acme/ada": None}).result()["acme/ada"] is not None
    assert store.read("acme", "ada") == ()


def test_a_store_that_is_away_costs_no_chat_and_is_counted(gateway: Gateway, fake: FakeVllm) -> None:
    put(gateway, "ada", WISH)
    file = gateway.data / "vault" / "preferences.db"
    kept = file.read_bytes()
    file.write_bytes(b"no database" * 100)
    assert gateway.chat(user="ada").status_code == 200
    assert gateway.metric("hearken_preferences_unavailable_total") == 1
    assert gateway.http.get(path("ada")).status_code == 503
    assert put(gateway, "ada", "x").status_code == 503
    assert gateway.http.delete(path("ada")).status_code == 503
    file.write_bytes(kept)
    assert entries(gateway, "ada") == [WISH]
    gateway.chat(user="ada")
    assert WISH in prompt(fake)


def sealer_of(folder: Path) -> Sealer:
    (folder / "secret").write_text("00" * 32)
    return open_sealer(folder)


def test_what_is_remembered_is_what_is_kept(tmp_path: Path) -> None:
    """Two gateways' stores change and read at random; each always says what was kept last."""
    chance = random.Random(2)
    sealer = sealer_of(tmp_path)
    stores = [PreferenceStore(tmp_path / "vault", sealer) for _ in range(2)]
    truth: dict[str, tuple[str, ...]] = {}
    remembered = 0
    for number in range(300):
        user, store = chance.choice(["ada", "bob", "eve"]), chance.choice(stores)
        action = chance.random()
        if action < 0.15:
            key = sealer.keys({f"acme/{user}": None}).result()[f"acme/{user}"]
            assert key is not None
            truth[user] = store.change("acme", user, key, lambda before, n=number: (*before, f"{n}")[-3:])
        elif action < 0.25:
            assert store.erase("acme", user) == len(truth.pop(user, ()))
        else:
            known = store.at_hand("acme", user)
            remembered += known is not None
            assert (store.read("acme", user) if known is None else known) == truth.get(user, ())
        assert store.count("acme", user) == len(truth.get(user, ()))
    assert remembered > 50


def test_a_change_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    sealer = sealer_of(tmp_path)
    store = PreferenceStore(tmp_path / "vault", sealer)
    key = sealer.keys({"acme/ada": None}).result()["acme/ada"]
    assert key is not None
    store.change("acme", "ada", key, lambda _: ("a",))

    def refuse(_: tuple[str, ...]) -> tuple[str, ...]:
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        store.change("acme", "ada", key, refuse)
    assert store.read("acme", "ada") == ("a",)


def test_a_file_that_is_gone_is_no_empty_list(tmp_path: Path) -> None:
    sealer = sealer_of(tmp_path)
    store = PreferenceStore(tmp_path / "vault", sealer)
    key = sealer.keys({"acme/ada": None}).result()["acme/ada"]
    assert key is not None
    store.change("acme", "ada", key, lambda _: ("a",))
    assert store.read("acme", "ada") == ("a",)
    (tmp_path / "vault" / "preferences.db").unlink()
    for each in (store, PreferenceStore(tmp_path / "vault", sealer)):
        with pytest.raises(StoreUnavailable, match="No such file"):
            each.read("acme", "ada")
        with pytest.raises(StoreUnavailable, match="No such file"):
            each.change("acme", "ada", key, lambda _: ("b",))
    (tmp_path / "vault" / "preferences.changes").unlink()
    with pytest.raises(StoreUnavailable, match="gone"):
        store.read("acme", "ada")


# ---- from a vote's comment


def vote(gateway: Gateway, **fields: Any) -> httpx.Response:
    completion = fields.pop("completion_id", None) or gateway.chat(user="ada").json()["id"]
    headers = fields.pop("headers", None)
    body = {"kind": "thumbs", "completion_id": completion, "value": "down", "user": "ada", **fields}
    return gateway.http.post("/v1/feedback", json=body, headers=headers)


def test_a_comment_is_a_preference_only_where_that_is_said(gateway: Gateway, fake: FakeVllm) -> None:
    assert "remembered" not in vote(gateway, comment="Be brief.").json()
    assert entries(gateway, "ada") == []
    assert vote(gateway, comment=WISH, from_now_on=True).json()["remembered"] is True
    gateway.chat(user="ada")
    assert WISH in prompt(fake)
    comment = {"kind": "comment", "text": "Be brief.", "value": None, "from_now_on": True}
    assert vote(gateway, **comment).status_code == 400  # a comment has no value
    done = gateway.chat(user="ada").json()["id"]
    body = {"kind": "comment", "completion_id": done, "text": "Be brief.", "user": "ada", "from_now_on": True}
    for _ in range(2):  # sent again, it is there once
        assert gateway.http.post("/v1/feedback", json=body).status_code == 202
    assert entries(gateway, "ada") == [WISH, "Be brief."]
    assert [each.comment or each.text for each in gateway.votes()][:2] == ["Be brief.", WISH]


def test_a_wish_that_cannot_be_kept_is_told_and_takes_the_vote_along(start: Start) -> None:
    gateway = start(preference_entries=1, preference_chars=40)
    for fields, status, param in (
        ({"comment": "x" * 41}, 400, "comment"),
        ({}, 400, "comment"),
        ({"comment": "Be brief.", "user": None}, 400, "user"),
    ):
        answer = vote(gateway, from_now_on=True, **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert vote(gateway, comment="Be brief.", from_now_on=True, dry_run=True).status_code == 200
    assert (entries(gateway, "ada"), gateway.votes()) == ([], [])
    assert vote(gateway, comment="Be brief.", from_now_on=True).status_code == 202
    full = vote(gateway, comment="Be kind.", from_now_on=True)
    assert (full.status_code, full.json()["error"]["code"]) == (409, "preferences_full")
    assert vote(gateway, comment="Be brief.", from_now_on=True).status_code == 202
    assert (entries(gateway, "ada"), len(gateway.votes())) == (["Be brief."], 2)


def test_a_token_or_a_batch_changes_nobodys_prompts(gateway: Gateway) -> None:
    given_answer = gateway.chat(user="ada").json()
    token = {"x-hearken-feedback-token": given_answer["hearken"]["feedback_token"]}
    said = {"comment": WISH, "from_now_on": True}
    refused = vote(gateway, completion_id=given_answer["id"], headers=token, **said)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "needs_key")
    in_body = vote(gateway, completion_id=given_answer["id"], token=token["x-hearken-feedback-token"], **said)
    assert in_body.status_code == 403
    item = {"kind": "thumbs", "completion_id": given_answer["id"], "value": "up", "user": "ada", **said}
    (result,) = gateway.http.post("/v1/feedback", json=[item]).json()["results"]
    assert (result["status"], result["error"]["param"]) == (400, "from_now_on")
    assert entries(gateway, "ada") == []


def test_a_key_for_votes_alone_changes_nobodys_prompts(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    votes, chats = (bearer(add_key(keys, [scope])) for scope in ("feedback", "chat"))
    gateway = start()
    completion = gateway.signer.new_completion_id()
    answer = vote(gateway, completion_id=completion, comment=WISH, from_now_on=True, headers=votes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    assert entries(gateway, "ada", headers=chats) == []


def test_where_consent_is_asked_for_a_comment_needs_it_by_put(start: Start) -> None:
    gateway = start(consent="asked")
    answer = vote(gateway, comment=WISH, from_now_on=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "consent_needed")


def test_a_quoted_name_is_one_segment() -> None:
    assert path("a/b") == f"/v1/users/{quote('a/b', safe='')}/preferences"
