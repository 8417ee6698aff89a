"""/v1/releases: who may look and steer, what an action leads to, and what is refused."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.history import leases
from tests.deploy.world import World, controlled
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.test_access import add_key, bearer

ACTIONS = "/v1/releases/actions"
PAUSE = {"action": "pause", "reason": "the fair"}


def act(gateway: Gateway, action: str, key: str | None = None, **fields: object) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    body = {"action": action, "reason": "odd answers", **fields}
    return gateway.http.post(ACTIONS, params={"wait": 30}, json=body, headers=headers)


def shown(gateway: Gateway, **query: object) -> Any:
    answer = gateway.http.get("/v1/releases", params=query)
    assert answer.status_code == 200
    return answer.json()


def started(world: World) -> str:
    """A canary, and its version."""
    version = world.offer().version
    eventually(lambda: world.outcomes[-1:] == ["started"], "the canary starts")
    return version


def test_only_a_key_that_may_operate_looks_and_steers(start: Start, world: World, tmp_path: Path) -> None:
    keys = {scope: add_key(tmp_path / "keys.json", [scope]) for scope in ("chat", "feedback", "operate")}
    gateway = start()
    with controlled(world):
        for method, path in (("GET", "/v1/releases"), ("POST", ACTIONS)):
            body = PAUSE if method == "POST" else None
            nobody = gateway.http.request(method, path, json=body)
            assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
            for scope, secret in keys.items():
                answer = gateway.http.request(method, path, json=body, headers=bearer(secret))
                assert answer.status_code == (200 if scope == "operate" else 403), (path, scope)
    assert world.outcomes.count("paused") == 1, "the one that may"
    decision = world.decisions[-1]
    assert decision.who.startswith("a test (key ")
    assert keys["operate"].split("-")[1] in decision.who
    assert (decision.action, decision.reason) == ("pause", "the fair")
    assert "a test (key " in decision.sentence


def test_without_keys_only_the_own_machine_sees_what_is_on_trial(start: Start, world: World) -> None:
    """Voters who know that a version is on trial, and how it does, are no blind voters."""
    gateway = start(trusted_proxies=("127.0.0.1",))
    far = gateway.http.post(
        "/v1/releases/answers", json={"prompt": "hi"}, headers={"x-forwarded-for": "203.0.113.9"}
    )
    assert (far.status_code, far.json()["error"]["code"]) == (403, "key_needed")
    for path in ("/v1/releases", "/v1/learning"):
        assert gateway.http.get(path).status_code == 200
        for headers, code in (
            ({"x-forwarded-for": "203.0.113.9"}, "key_needed"),
            ({"origin": "https://evil.example"}, "cross_site"),
        ):
            far = gateway.http.get(path, headers=headers)
            assert (far.status_code, far.json()["error"]["code"]) == (403, code)


def test_the_line_that_live_grew_from_is_shown(gateway: Gateway, world: World) -> None:
    with controlled(world):
        version = started(world)
        assert act(gateway, "promote", version=version).status_code == 200
        assert shown(gateway)["state"]["lineage"] == ["base", version]


def test_without_keys_only_the_own_machine_steers(start: Start, world: World) -> None:
    gateway = start(trusted_proxies=("127.0.0.1",))
    with controlled(world):
        here = gateway.http.post(ACTIONS, json=PAUSE)
        far = gateway.http.post(ACTIONS, json=PAUSE, headers={"x-forwarded-for": "203.0.113.9"})
        page = gateway.http.post(ACTIONS, json=PAUSE, headers={"origin": "https://evil.example"})
        own = gateway.http.post(ACTIONS, json=PAUSE, headers={"sec-fetch-site": "same-origin"})
    assert (here.status_code, own.status_code) == (200, 200)
    assert (far.status_code, far.json()["error"]["code"]) == (403, "key_needed")
    assert (page.status_code, page.json()["error"]["code"]) == (403, "cross_site")
    assert world.outcomes.count("paused") == 2
    assert world.decisions[-1].who == "127.0.0.1, without a key"


def test_a_rollback_is_done_when_the_gateway_serves_the_version_before(
    gateway: Gateway, world: World
) -> None:
    with controlled(world):
        version = started(world)
        promoted = act(gateway, "promote", version=version)
        assert (promoted.status_code, promoted.json()["status"]) == (200, "done")
        assert shown(gateway)["state"]["live"] == version
        rolled_back = act(gateway, "rollback")
        epoch = gateway.metric("hearken_table_epoch")
    told = rolled_back.json()
    assert (rolled_back.status_code, told["status"], told["waits_for"]) == (200, "done", None)
    assert told["decision"]["sentence"].startswith(f"Rolled back {version} to base for 127.0.0.1")
    assert epoch == world.state.table.epoch, "at the time of the answer"


def test_a_gateway_that_does_not_follow_is_told(gateway: Gateway, world: World) -> None:
    with controlled(world):
        started(world)
        leases.write(world.shared, "elsewhere", [], 1)
        told = gateway.http.post(ACTIONS, params={"wait": 1}, json={"action": "rollback", "reason": "odd"})
    assert (told.status_code, told.json()["status"]) == (202, "decided")
    assert told.json()["waits_for"] == "1 of 2 gateways do not serve by the decision yet"
    assert world.outcomes[-1] == "rolled_back"


def test_without_a_controller_the_command_is_kept(gateway: Gateway, world: World) -> None:
    told = gateway.http.post(ACTIONS, params={"wait": 0}, json=PAUSE)
    assert (told.status_code, told.json()["status"], told.json()["decision"]) == (202, "asked", None)
    assert told.json()["waits_for"] == "no controller has decided yet"
    seen = shown(gateway)
    assert (seen["state"], seen["told_at"]) == ({"stage": None, "live": None}, None)
    assert "No controller has told for 15 s" in seen["why"][-1]
    with controlled(world):
        eventually(lambda: "paused" in world.outcomes, "a controller does it")


def test_what_is_asked_for_again_is_done_once(gateway: Gateway, world: World) -> None:
    with controlled(world):
        started(world)
        first, again = act(gateway, "promote", "k1"), act(gateway, "promote", "k1")
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json() == first.json()
        other = act(gateway, "rollback", "k1")
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        assert act(gateway, "rollback", "k2").status_code == 200
    assert [o for o in world.outcomes if o in ("promoted", "rolled_back", "not_done")] == [
        "promoted",
        "rolled_back",
    ]


def test_what_cannot_be_done_is_a_conflict_with_the_reason(gateway: Gateway, world: World) -> None:
    with controlled(world):
        for action, words in (("promote", "no canary runs"), ("rollback", "no version came before it")):
            refused = act(gateway, action)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_done")
            assert words in refused.json()["error"]["message"]
        unknown = act(gateway, "pin", version="policy-3-aaaaaaaa")
        assert unknown.status_code == 409
        assert "no version 'policy-3-aaaaaaaa'" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reason": "x"}, "action"),
        ({"action": "explode", "reason": "x"}, "action"),
        ({"action": "pause"}, "reason"),
        ({"action": "pause", "reason": ""}, "reason"),
        ({"action": "pause", "reason": "two\nlines"}, "reason"),
        ({"action": "pause", "reason": "x" * 501}, "reason"),
        ({"action": "pause", "reason": "x", "why": "y"}, "why"),
        ({"action": "pause", "reason": "x", "version": "base"}, "version"),
        ({"action": "pin", "reason": "x"}, "version"),
        ({"action": "pin", "reason": "x", "version": "../../etc"}, "version"),
        ({"action": "pin", "reason": "x", "version": 3}, "version"),
        ([], None),
    ],
)
def test_what_is_asked_wrongly_is_told_and_not_logged(
    steady: Gateway, body: object, param: str | None
) -> None:
    before = len(steady.records("releases"))
    refused = steady.http.post(ACTIONS, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert len(steady.records("releases")) == before


def test_a_wait_a_page_or_a_key_that_makes_no_sense_is_told(steady: Gateway) -> None:
    for wait in ("-1", "61", "long", "nan", "inf"):
        refused = steady.http.post(ACTIONS, params={"wait": wait}, json=PAUSE)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "wait")
    for name, value in (("limit", "0"), ("limit", "1001"), ("limit", "x"), ("before", "0"), ("before", "-2")):
        refused = steady.http.get("/v1/releases", params={name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    refused = steady.http.post(ACTIONS, json=PAUSE, headers={"idempotency-key": "two words"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "idempotency_key")
    plain = steady.http.post(ACTIONS, content='{"action": "pause", "reason": "x"}')
    assert plain.status_code == 415
    assert steady.records("releases") == []


def test_what_is_shown_is_the_controllers_word_and_pages_of_decisions(gateway: Gateway, world: World) -> None:
    with controlled(world):
        version = started(world)
        for _ in range(3):
            assert act(gateway, "pause").status_code == 200
        eventually(lambda: any("paused" in each for each in shown(gateway)["why"]), "the newest word")
        seen = shown(gateway, limit=4)
    assert (seen["state"]["stage"], seen["state"]["canary"], seen["state"]["paused"]) == (
        "canary",
        version,
        True,
    )
    assert seen["state"]["guardrails"]["empty_answers"] == "not judged yet"
    assert seen["told_at"] == world.now
    assert f"{version} has been on trial with 5% of users" in seen["why"][0]
    page = seen["history"]
    assert ([each["number"] for each in page["data"]], page["has_more"]) == ([3, 4, 5, 6], True)
    assert page["data"][-1]["reason"] == "odd answers"
    older = shown(gateway, limit=4, before=3)["history"]
    assert ([each["number"] for each in older["data"]], older["has_more"]) == ([1, 2], False)
