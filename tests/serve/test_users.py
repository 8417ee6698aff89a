"""GET and DELETE /v1/users: what is kept of whom, whatever their name, and nothing once it was erased."""

import asyncio
import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from deploy.history.releases import Candidate
from deploy.history.releases import entry as release_entry
from feedback.core.erasures import parse_erasure
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, Completion, Feedback
from feedback.core.replay import replay
from feedback.opening import open_sealer
from feedback.updates.usage import State, Usage
from feedback.updates.usage import entry as usage_entry
from serve.receipts.reader import descendants
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import add_key, bearer

WORD = "marmalade"  # no id and no key holds it by chance


def path_of(name: str) -> str:
    return "/v1/users/" + quote(name, safe="")


def readable(gateway: Gateway, word: str = WORD) -> list[str]:
    """Where a word can be read: in the bytes of a file, or in a record that opens."""
    found = [str(path) for path in gateway.data.rglob("*") if path.is_file() and word in _text(path)]
    return [*found, *(event.event_id for event in logged(gateway) if word in event.model_dump_json())]


def logged(gateway: Gateway) -> Iterator[Completion | Feedback]:
    """Every completion and vote in the log, however many there are, unsealed."""
    sealer = open_sealer(gateway.data)
    kinds: list[tuple[str, Any]] = [(COMPLETIONS, Completion), (FEEDBACK, Feedback)]
    for topic, kind in kinds:
        for records, _ in replay(gateway.log, [topic], {}):
            for record in records:
                yield sealer.open(kind.model_validate_json(record.value))
    sealer.close()


def _text(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().decode("latin-1")
    return ""


def comment(gateway: Gateway, completion_id: str, user: str, text: str = WORD) -> None:
    vote = {"kind": "comment", "completion_id": completion_id, "text": text, "user": user}
    assert gateway.http.post("/v1/feedback", json=vote).status_code == 202


def thumb(gateway: Gateway, completion_id: str, user: str) -> str:
    vote = {"kind": "thumbs", "completion_id": completion_id, "value": "up", "user": user}
    found: str = gateway.http.post("/v1/feedback", json=vote).json()["id"]
    return found


def test_a_misspelt_name_is_not_found_and_nothing_is_claimed(gateway: Gateway) -> None:
    gateway.chat(f"I am {WORD}", user="ada")
    for name in ("adda", "Ada", "ada ", "u_0123456789abcdef01234567"):
        answer = gateway.http.delete(path_of(name))
        assert answer.status_code == 200
        assert {key: value for key, value in answer.json().items() if key != "id"} == {
            "object": "user.deleted",
            "found": False,
            "deleted": False,
            "had_texts": False,
            "stored_completions": 0,
            "preferences": 0,
            "policy_versions": [],
            "descendants": [],
        }
        assert gateway.http.get(path_of(name)).json()["found"] is False
    assert readable(gateway) != []
    assert gateway.records(RELEASES) == []
    assert gateway.http.delete(path_of("ada")).json()["found"] is True
    assert readable(gateway) == []


ALPHABET = "aA0_u/.%?#&= \n\x00\u00e9e\u0301\u0130\u00df\U0001f600;:@+\\\"'"


def names(chance: random.Random, count: int) -> Iterator[str]:
    fixed = (
        "u_" + "ab" * 12,
        "U_" + "ab" * 12,
        "import:x",
        ".",
        "..",
        "a/../b",
        "Ada",
        "ada",
        "e\u0301",
        "\u00e9",
    )
    yield from fixed
    for _ in range(count - len(fixed)):
        yield "".join(chance.choices(ALPHABET, k=chance.randint(1, 12)))


def test_whatever_the_name_its_texts_go_and_nobody_elses(gateway: Gateway) -> None:
    chance = random.Random(3)
    people = list(dict.fromkeys(names(chance, 40)))
    ids = {name: gateway.chat(f"word{i}word", user=name).json()["id"] for i, name in enumerate(people)}
    left = set(people)
    for name in chance.sample(people, len(people)):
        # Clients resolve dots in paths, %2E as well: such names go into the query.
        sent = path_of(name) if name.strip(".") else f"/v1/users?name={name}"
        assert gateway.http.get(sent).json()["completions"]["count"] == 1, repr(name)
        answer = gateway.http.delete(sent)
        assert answer.json()["found"] is True, repr(name)
        left.discard(name)
    assert left == set()
    logged = {each.completion_id: each for each in gateway.completions()}
    assert [name for name, completion_id in ids.items() if logged[completion_id].messages] == []


def test_erasing_one_leaves_all_others(gateway: Gateway) -> None:
    people = list(dict.fromkeys(names(random.Random(5), 20)))
    ids = {name: gateway.chat(f"word{i}word", user=name).json()["id"] for i, name in enumerate(people)}
    gateway.http.delete(path_of("ada"))
    logged = {each.completion_id: each for each in gateway.completions()}
    assert [name for name in people if not logged[ids[name]].messages] == ["ada"]


def test_a_name_that_is_another_users_pseudonym_asks_which_is_meant(gateway: Gateway) -> None:
    ada = gateway.signer.pseudonym("default", "ada")
    of_ada = gateway.chat("I am Ada", user="ada").json()["id"]
    assert gateway.http.get(path_of(ada)).json()["id"] == ada
    mallory = gateway.chat("I am Mallory", user=ada).json()["id"]
    refused = gateway.http.delete(path_of(ada))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ambiguous_user")
    assert gateway.http.delete(path_of(ada), params={"by": "name"}).json()["found"] is True
    assert (gateway.completion(mallory).messages, bool(gateway.completion(of_ada).messages)) == ([], True)
    assert gateway.http.delete(path_of(ada), params={"by": "pseudonym"}).json()["id"] == ada
    assert gateway.completion(of_ada).messages == []
    assert gateway.http.delete(path_of("ada"), params={"by": "pseudonym"}).status_code == 400
    assert gateway.http.delete(path_of("ada"), params={"by": "mail"}).status_code == 400


def test_what_is_kept_is_told(gateway: Gateway) -> None:
    before = time.time()
    first, second = (gateway.chat("hi", user="ada", store=store).json()["id"] for store in (True, False))
    thumb(gateway, first, "ada")
    comment(gateway, second, "ada")
    comment(gateway, first, "ada")
    told = gateway.http.get(path_of("ada")).json()
    assert (told["found"], told["key"], told["erased_at"], told["stored_completions"]) == (
        True,
        "present",
        None,
        1,
    )
    assert told["pseudonyms"] == [told["id"]] == [gateway.signer.pseudonym("default", "ada")]
    assert told["completions"]["count"] == 2
    assert {kind: each["count"] for kind, each in told["votes"]["kinds"].items()} == {
        "comment": 2,
        "thumbs": 1,
    }
    assert told["votes"]["count"] == 3
    assert (
        before
        <= told["completions"]["first_at"]
        <= told["completions"]["last_at"]
        <= told["votes"]["last_at"]
    )
    gateway.http.delete(path_of("ada"))
    told = gateway.http.get(path_of("ada")).json()
    assert (told["found"], told["key"], told["stored_completions"]) == (True, "erased", 0)
    assert before <= told["erased_at"] <= time.time()
    assert told["completions"]["count"] == 2  # that they were, not what they said


def test_users_are_shown_to_operators_of_their_tenant(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    chat, ours, theirs = (
        add_key(keys, ["chat"], tenant="acme"),
        add_key(keys, ["operate"], tenant="acme"),
        add_key(keys, ["operate"], tenant="other"),
    )
    gateway = start()
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "user": "ada"}
    assert gateway.http.post("/v1/chat/completions", json=body, headers=bearer(chat)).status_code == 200
    assert gateway.http.get(path_of("ada"), headers=bearer(chat)).status_code == 403
    assert gateway.http.get(path_of("ada"), headers=bearer(ours)).json()["found"] is True
    pseudonym = gateway.signer.pseudonym("acme", "ada")
    for name in ("ada", pseudonym):
        assert gateway.http.get(path_of(name), headers=bearer(theirs)).json()["found"] is False
        assert gateway.http.delete(path_of(name), headers=bearer(theirs)).json()["found"] is False
    assert gateway.http.delete(path_of(pseudonym), headers=bearer(ours)).json()["found"] is True


def test_imports_of_before_are_the_same_persons(gateway: Gateway) -> None:
    """Imports once named a person import:ada; the log keeps these."""
    old = gateway.signer.pseudonym("default", "import:ada")
    given = gateway.chat(WORD, user="import:ada").json()["id"]
    gateway.chat(WORD, user="ada")
    told = gateway.http.get(path_of("ada")).json()
    assert set(told["pseudonyms"]) == {gateway.signer.pseudonym("default", "ada"), old}
    assert told["completions"]["count"] == 2
    gateway.http.delete(path_of("ada"))
    assert gateway.completion(given).messages == []
    erased = {e.user for e in (parse_erasure(r.value) for r in gateway.records(RELEASES)) if e is not None}
    assert erased == set(told["pseudonyms"])


def test_policies_that_come_from_an_erased_users_votes_are_named(gateway: Gateway) -> None:
    vote = thumb(gateway, gateway.chat("hi", user="ada").json()["id"], "ada")
    revision = gateway.votes()[0].revision

    def offer(version: str, updates: int, parent: str | None) -> None:
        event = Candidate.announce(version, reward_updates=updates, parent=parent)
        gateway.log.append([release_entry(event)]).result()

    def told(update: int, state: State) -> None:
        votes: dict[State, list[tuple[str, int]]] = {state: [(vote, revision)]}
        usage = Usage(event_id=f"u{update}", at=1.0, update=update, cursor={}, votes=votes)
        gateway.log.append([usage_entry(usage)]).result()

    told(1, "training")
    offer("policy-1-aa", 1, "base")
    told(2, "retracted")
    offer("policy-2-bb", 2, "policy-1-aa")
    offer("policy-3-cc", 2, "base")
    offer("policy-4-dd", 2, "policy-2-bb")
    answer = gateway.http.delete(path_of("ada")).json()
    assert answer["policy_versions"] == ["policy-1-aa"]
    assert answer["descendants"] == ["policy-2-bb", "policy-4-dd"]
    shown = gateway.http.get(path_of("ada")).json()
    assert (shown["policy_versions"], shown["descendants"]) == (
        ["policy-1-aa"],
        ["policy-2-bb", "policy-4-dd"],
    )


def test_a_user_named_by_the_query_is_the_same(gateway: Gateway) -> None:
    gateway.chat(WORD, user="..")
    assert gateway.http.get("/v1/users", params={"name": ".."}).json()["found"] is True
    assert gateway.http.delete("/v1/users").status_code == 404
    assert gateway.http.delete("/v1/users", params={"name": ".."}).json()["deleted"] is True
    assert readable(gateway) == []


def test_a_version_of_unknown_parents_may_come_from_any_before_it() -> None:
    assert descendants({"b"}, [("a", None), ("b", None), ("c", None), ("d", "base"), ("e", "c")]) == [
        "c",
        "e",
    ]
    assert descendants(set(), [("a", None)]) == []


# ---- what began before


def chat_body(word: str, user: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": word}
    return {"model": "hearken", "messages": [message], "user": user, **more}


def test_a_stream_that_began_before_an_erasure_is_blank(gateway: Gateway, fake: FakeVllm) -> None:
    for user, known in (("ada", True), ("new", False)):
        if known:
            gateway.chat("hello", user=user)
        fake.holding.clear()
        fake.release.clear()
        body = chat_body(Trouble.HOLD, user, stream=True, store=True, metadata={"about": WORD})
        body["messages"].insert(0, {"role": "system", "content": WORD})
        with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            eventually(fake.holding.is_set, "the engine holds")
            assert gateway.http.delete(path_of(user)).json()["found"] is known
            fake.release.set()
            assert "[DONE]" in answer.read().decode()
        blank = gateway.completions()[-1]
        assert (blank.user, blank.messages) == (gateway.signer.pseudonym("default", user), [])
        assert blank.choices[0].length > 0
        assert gateway.http.get("/v1/chat/completions").json()["data"] == []
    assert readable(gateway) == []


def test_words_that_come_with_a_token_of_before_are_blank(gateway: Gateway) -> None:
    given = gateway.chat("hi", user="ada").json()
    gateway.http.delete(path_of("ada"))
    token = {"x-hearken-feedback-token": given["hearken"]["feedback_token"]}
    vote = {"kind": "comment", "completion_id": given["id"], "text": WORD}
    assert gateway.http.post("/v1/feedback", json=vote, headers=token).status_code == 202
    assert gateway.votes()[-1].text is None
    assert readable(gateway) == []
    again = gateway.chat("I am back", user="ada").json()
    token = {"x-hearken-feedback-token": again["hearken"]["feedback_token"]}
    vote = {"kind": "comment", "completion_id": again["id"], "text": WORD}
    assert gateway.http.post("/v1/feedback", json=vote, headers=token).status_code == 202
    assert gateway.votes()[-1].text == WORD


def test_a_batch_whose_upload_began_before_an_erasure_is_blank(gateway: Gateway) -> None:
    ids = {user: gateway.chat("hi", user=user).json()["id"] for user in ("ada", "bob")}
    items = [
        b'{"kind":"comment","completion_id":"%s","text":"%s","user":"%s"}\n'
        % (ids[user].encode(), WORD.encode(), user.encode())
        for user in ("ada", "bob")
    ]
    begun, erased = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield items[0]
        begun.set()
        assert erased.wait(30)
        yield items[1]

    def erase() -> None:
        assert begun.wait(30)
        time.sleep(0.2)  # the first part is on its way to the gateway
        with httpx.Client(base_url=gateway.url) as http:
            http.delete(path_of("ada"))
        erased.set()

    erasing = threading.Thread(target=erase)
    erasing.start()
    headers = {"content-type": "application/x-ndjson"}
    answer = gateway.http.post("/v1/feedback", content=body(), headers=headers)
    erasing.join()
    assert (answer.status_code, answer.json()["accepted"]) == (207, 2)
    assert [vote.text for vote in gateway.votes()] == [None, WORD]


ROUNDS = int(os.environ.get("HEARKEN_ERASURES", "15"))
"""Users who are erased; 1,000 take some minutes."""


def test_nothing_is_readable_after_erasures_at_random_instants(gateway: Gateway) -> None:
    """Streams, whole answers, comparisons, votes with tokens and batches of one who is erased meanwhile."""
    chance = random.Random(11)
    asyncio.run(_story(gateway, chance))
    assert readable(gateway) == []
    assert sum(1 for _ in logged(gateway)) > 6 * ROUNDS
    # And the search finds what it searches for.
    gateway.chat(WORD, user="alive")
    assert readable(gateway) != []


async def _story(gateway: Gateway, chance: random.Random) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        for number in range(ROUNDS):
            user = f"user-{number}" if chance.random() < 0.5 else f"user-{number % 7}"
            first = (await http.post("/v1/chat/completions", json=chat_body(WORD, user))).json()
            token = {"x-hearken-feedback-token": first["hearken"]["feedback_token"]}
            vote = {"kind": "comment", "completion_id": first["id"], "text": WORD}
            votes = [{**vote, "user": user}, {**vote, "kind": "correction", "user": user}]
            work = [
                http.post("/v1/chat/completions", json=chat_body(WORD, user, stream=True, store=True)),
                http.post("/v1/chat/completions", json=chat_body(WORD, user)),
                http.post("/v1/comparisons", json=chat_body(WORD, user)),
                http.post("/v1/feedback", json=vote, headers=token),
                http.post("/v1/feedback", json=votes),
            ]
            under_way = [asyncio.create_task(each) for each in work]
            await asyncio.sleep(chance.random() * 0.03)
            erased = asyncio.create_task(http.delete(path_of(user)))
            for answer in await asyncio.gather(*under_way):
                assert answer.status_code in (200, 202, 207), answer.text
            assert (await erased).json()["found"] is True
            # What began after the erasure was the user's own doing; it goes with a second one.
            assert (await http.delete(path_of(user))).json()["found"] is True


def test_an_entry_without_texts_needs_no_key(gateway: Gateway) -> None:
    thumb(gateway, gateway.chat("hi", user="bob").json()["id"], "ada")
    assert (
        open_sealer(gateway.data).state("default", gateway.signer.pseudonym("default", "ada")).has_key
        is False
    )
    assert gateway.http.get(path_of("ada")).json()["key"] == "none"
    assert gateway.http.delete(path_of("ada")).json()["found"] is True
