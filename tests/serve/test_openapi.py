"""/openapi.json is true: schemathesis tries the API with what it allows and with what it forbids."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from hearken.service.roles import import_command
from serve.generation.request_schemas import CHAT
from serve.openapi import document
from tests.deploy.world import World, controlled
from tests.fuzzing import fuzz
from tests.serve.conftest import Gateway, eventually, serving
from tests.serve.fake_vllm import FakeVllm


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Gateway]:
    """A gateway with a stored chat and a stored response, whose engine answers everything. It imports, and a
    controller answers what operators ask for."""
    data = tmp_path_factory.mktemp("api")
    engine = FakeVllm().start()
    engine.immune = True
    events, store, world = SqliteLog(data / "log.db"), SqliteStore(data / "shared.db"), World(data)
    command = import_command(str(tiny_model))
    with serving(data, events, store, (engine.url,), command) as gateway, controlled(world):
        eventually(gateway.is_ready, "the gateway is ready")
        gateway.chat(store=True, metadata={"a": "b"})
        gateway.http.post("/v1/responses", json={"model": "hearken", "input": "hi"}).raise_for_status()
        lines = {"content-type": "application/x-ndjson"}
        gateway.http.post("/v1/imports", headers=lines, timeout=120)  # its process is there from now on
        yield gateway
    world.close()
    store.close()
    events.close()
    engine.stop()


def test_schemathesis_finds_nothing(api: Gateway) -> None:
    fuzz(api.url, examples=15)


def test_every_route_of_the_api_is_in_the_document(api: Gateway) -> None:
    shown = set(api.http.get("/openapi.json").json()["paths"])
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/feedback", "/v1/comparisons"):
        assert path in shown
    for path in ("/v1/imports", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"):
        assert path in shown
    assert {"/v1/releases", "/v1/releases/actions", "/v1/releases/stream"} <= shown


def test_the_document_names_the_model_and_what_is_checked() -> None:
    body = document("mine")["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    shown = body["content"]["application/json"]["schema"]
    assert shown["properties"]["model"] == {"type": "string", "enum": ["mine"]}
    others = set(CHAT["properties"]) - {"model"}
    assert all(shown["properties"][name] is CHAT["properties"][name] for name in others)
