"""A request for a name that is not the service's is refused: a page may have pointed its own name here."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.server.hosts import is_trusted
from serve.settings import GatewaySettings
from tests.serve.conftest import Gateway, Start
from tests.serve.test_bounds import connection, status_and_code, until_closed
from tests.serve.test_errors import OK, error_of

LISTED = ("chat.example.com", "*.shop.example")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "[2001:db8::1]"),
        *("hearken", "hearken-gateway:8000", "mybox.local", "host.docker.internal:8000", "app.localhost"),
        *("hearken.chat.svc.cluster.local", "router.home.arpa", "localhost.:8000", "my_box"),
        *("chat.example.com", "Chat.Example.COM:443", "eu.shop.example", "a.b.shop.example"),
    ],
)
def test_names_of_the_service(host: str) -> None:
    assert is_trusted(host, LISTED)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil-localhost.com", "chat.example.com.evil.example"),
        *("shop.example", "evilshop.example", "127.0.0.1.evil.example", "local", "evil.localhost.example:80"),
        *(
            "",
            ":8000",
            "a b",
            "*.shop.example",
            "evil.example/localhost",
            "user@localhost",
            "[::1",
            "1.2.3.4.5",
        ),
        *("localhost,evil.example", "localhost\t", "\xe9vil"),
    ],
)
def test_other_names(host: str) -> None:
    assert is_trusted(host, LISTED) == (host == "local")


LABELS = st.lists(st.text("abz019-_", min_size=1, max_size=9), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(LABELS, st.sampled_from(["com", "example", "dev", "ai", "svc"]), st.sampled_from(["", ":80", ":8000"]))
def test_no_name_that_somebody_can_register_is_trusted_unlisted(
    labels: list[str], top: str, port: str
) -> None:
    host = ".".join([*labels, top]) + port
    assert not is_trusted(host, ())
    assert is_trusted(host, ("*",))


def test_a_foreign_host_is_told_what_to_set(steady: Gateway) -> None:
    for path, method in (("/v1/chat/completions", "POST"), ("/v1/users/ada", "DELETE"), ("/metrics", "GET")):
        answer = steady.http.request(method, path, json=OK, headers={"host": "evil.example:8000"})
        assert (answer.status_code, error_of(answer)["code"]) == (421, "untrusted_host")
        assert "trusted_hosts" in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]
    assert steady.completions() == []
    with connection(steady) as plain:
        hosts = b"host: localhost\r\nhost: evil.example\r\n"
        plain.sendall(b"GET /livez HTTP/1.1\r\n" + hosts + b"connection: close\r\n\r\n")
        assert status_and_code(until_closed(plain)) == (421, "untrusted_host")


def test_a_listed_host_is_served(start: Start) -> None:
    gateway = start(trusted_hosts=("chat.example.com",))
    assert gateway.http.get("/v1/models", headers={"host": "chat.example.com"}).status_code == 200
    assert gateway.http.get("/v1/models", headers={"host": "shop.example.com"}).status_code == 421


@pytest.mark.parametrize("name", ["", "https://a.b", "a.b/", "a.b:80", "*.", "a*.b", "-a.b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="trusted host"):
        GatewaySettings(data=Path("x"), engines=("http://127.0.0.1:1",), trusted_hosts=(name,))
