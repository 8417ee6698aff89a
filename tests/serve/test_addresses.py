"""Whose address counts: the connection's, unless a proxy that is trusted says another one."""

from pathlib import Path

import pytest

from serve.server.addresses import Addresses
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, Start


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first one is what the client made up
        ("10.0.0.1", "198.51.100.1, 203.0.113.7, 10.9.9.9", "203.0.113.7"),
        ("10.0.0.1", "10.1.1.1, 10.9.9.9", "10.1.1.1"),
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:DB8:0::1", "2001:db8::1"),
        ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),  # what says nothing ends the chain
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not by a proxy of ours
        ("127.0.0.1", "198.51.100.1", "127.0.0.1"),
        ("unknown", "198.51.100.1", "unknown"),
    ],
)
def test_the_client_behind_trusted_proxies(peer: str, forwarded: str, client: str) -> None:
    assert Addresses(["10.0.0.0/8"]).client(peer, forwarded) == client


def raters(gateway: Gateway) -> int:
    """How many raters vote, without names, that claim to come from two addresses."""
    for claimed in ("198.51.100.1", "198.51.100.2"):
        vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
        sent = gateway.http.post("/v1/feedback", json=vote, headers={"x-forwarded-for": claimed})
        assert sent.status_code == 202
    return len({vote.rater for vote in gateway.votes()})


def test_nobody_is_believed_by_default(gateway: Gateway) -> None:
    assert raters(gateway) == 1


def test_a_trusted_proxy_is_believed(start: Start) -> None:
    assert raters(start(trusted_proxies=("127.0.0.1",))) == 2


@pytest.mark.parametrize("proxy", ["", "proxy", "10.0.0.0/33", "10.0.0.1/8"])
def test_what_is_no_network(proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        GatewaySettings(data=Path("x"), engines=("http://127.0.0.1:1",), trusted_proxies=(proxy,))
