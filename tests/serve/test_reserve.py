"""Places on an engine: a key leaves some to the others, and readers give up no more than are waited for."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from serve.server.readers import GIVEN_SECONDS, Pressure
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import CHAT, add_key, bearer

PLACES = 16


def value(gateway: Gateway, operator: dict[str, str], metric: str) -> float:
    text = gateway.http.get("/metrics", headers=operator).text
    found = re.search(rf"^{metric} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_key_that_fills_an_engine_leaves_a_place_to_others(
    start: Start, fake: FakeVllm, tmp_path: Path
) -> None:
    loud, shy = (add_key(tmp_path / "keys.json", ["chat"]) for _ in range(2))
    operator = bearer(add_key(tmp_path / "keys.json", ["operate"]))
    gateway = start(max_in_flight=PLACES, queue_seconds=30.0)
    in_flight = f'hearken_engine_in_flight{{engine="{fake.url}"}}'

    def ask(secret: str, content: str) -> int:
        body = {**CHAT, "messages": [{"role": "user", "content": content}]}
        url = gateway.url + "/v1/chat/completions"
        return httpx.post(url, json=body, headers=bearer(secret), timeout=60).status_code

    with ThreadPoolExecutor(PLACES + 2) as pool:
        held = [pool.submit(ask, loud, Trouble.HOLD) for _ in range(PLACES + 2)]
        eventually(lambda: value(gateway, operator, "hearken_queue_length") == 3, "three of them wait")
        assert value(gateway, operator, in_flight) == PLACES - 1
        assert ask(shy, "hi") == 200
        fake.release.set()
        assert [each.result() for each in held] == [200] * (PLACES + 2)
    eventually(lambda: value(gateway, operator, in_flight) == 0, "every place is free again")


def test_without_keys_all_places_are_everyones(start: Start, fake: FakeVllm) -> None:
    gateway = start(max_in_flight=PLACES, queue_seconds=30.0)
    in_flight = f'hearken_engine_in_flight{{engine="{fake.url}"}}'
    url = gateway.url + "/v1/chat/completions"
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}]}
    with ThreadPoolExecutor(PLACES) as pool:
        held = [pool.submit(httpx.post, url, json=body, timeout=60) for _ in range(PLACES)]
        eventually(lambda: gateway.metric(in_flight) == PLACES, "all places are taken")
        fake.release.set()
        assert [each.result().status_code for each in held] == [200] * PLACES


def test_no_more_readers_lose_their_places_than_requests_wait() -> None:
    """128 that stopped together are looked at in one moment; one chat needs one place."""
    waiting = 1
    pressure = Pressure(lambda: waiting)
    assert [pressure.takes_a_place(1.0) for _ in range(128)].count(True) == 1
    assert not pressure.takes_a_place(1.0 + GIVEN_SECONDS / 2)
    waiting = 3
    assert [pressure.takes_a_place(1.0 + GIVEN_SECONDS / 2) for _ in range(128)].count(True) == 2
    waiting = 0
    assert not pressure.takes_a_place(9.0)
    waiting = 1
    assert pressure.takes_a_place(9.0)
