"""`hearken doctor` looks at a real gateway."""

from hearken.operate.doctor import Finding, Service, look
from hearken.settings import ServiceSettings
from tests.serve.conftest import Gateway, eventually
from tests.serve.fake_vllm import FakeVllm


def seen(gateway: Gateway, fake: FakeVllm) -> dict[str, Finding]:
    shared = ServiceSettings(data=gateway.data, engines=(fake.url,))
    return {each.part: each for each in look(Service(shared, gateway.url))}


def test_a_gateway_is_ready_or_says_why_not(gateway: Gateway, fake: FakeVllm) -> None:
    parts = seen(gateway, fake)
    assert (parts["gateway"].state, parts["engine"].state) == ("ok", "ok")
    assert "clock" not in parts
    fake.stop()
    eventually(lambda: seen(gateway, fake)["gateway"].state == "wrong", "the gateway noticed")
    parts = seen(gateway, fake)
    assert "is not ready: " in parts["gateway"].text
    assert parts["engine"].state == "wrong"
