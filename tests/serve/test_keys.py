"""Keys and the file that holds them: what they look like, what is refused, and edits that never collide."""

import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve.auth.keyfile import edit_keys, read_keys, signature
from serve.auth.keys import BadKeyFile, Key, file_of, id_of, make_key, parse_keys
from serve.auth.limits import KEY_DEFAULTS, Limits, parse_limits

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def entry(**fields: object) -> dict[str, object]:
    """A key as it stands in the file."""
    return {
        "id": "abc",
        "name": "app",
        "sha256": "0" * 64,
        "scopes": ["chat"],
        "created": "2026-03-01T12:00:00Z",
        **fields,
    }


def test_the_file_holds_a_hash_that_only_the_key_has() -> None:
    key, secret = make_key("app", ["feedback", "chat"], NOW)
    assert secret.startswith(f"hk-{key.id}-")
    assert id_of(secret) == key.id
    raw = file_of([key])
    assert secret.rpartition("-")[2] not in raw.decode()
    assert parse_keys(raw) == [key]
    assert key.matches(secret)
    assert not key.matches(secret[:-1])
    assert not key.matches(secret + "x")
    assert make_key("app", ["chat"], NOW)[1] != secret


def test_a_key_is_in_force_until_it_expires_or_is_revoked() -> None:
    key, _ = make_key("app", ["chat"], NOW, expires=NOW + timedelta(days=1))
    assert key.state(NOW) == "in force"
    assert key.state(NOW + timedelta(days=1)) == "expired"
    revoked = key.model_copy(update={"revoked": NOW + timedelta(hours=1)})
    assert revoked.state(NOW) == "in force"
    assert revoked.state(NOW + timedelta(days=2)) == "revoked"


@pytest.mark.parametrize(
    "presented", ["", "hk-", "hk-abc", "hk-abc-short", "sk-abc-" + "x" * 40, "hk-A-" + "x" * 40]
)
def test_what_is_no_key(presented: str) -> None:
    assert id_of(presented) is None


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "EOF"),
        (b"\xff", "keys|UTF|JSON"),
        (b"[]", "object"),
        (b"{}", "keys"),
        ({"keys": [], "version": 2}, "version"),
        ({"keys": [], "more": 1}, "more"),
        ({"keys": [entry(), entry()]}, "same id"),
        ({"keys": [entry(sha256="xyz")]}, "sha256"),
        ({"keys": [entry(scopes=["everything"])]}, "scopes"),
        ({"keys": [entry(scopes=[])]}, "scopes"),
        ({"keys": [entry(expires="2026-03-01")]}, "expires"),
        ({"keys": [entry(limits={"request_per_minute": 3})]}, "request_per_minute"),
        ({"keys": [entry(limits={"requests_per_minute": -3})]}, "requests_per_minute"),
        ({"keys": [entry(tenant="a b")]}, "tenant"),
    ],
)
def test_a_broken_file_says_where_it_is_broken(content: bytes | dict[str, object], word: str) -> None:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(BadKeyFile, match=word) as caught:
        parse_keys(raw)
    assert "\n" not in str(caught.value)


def test_a_file_written_by_hand() -> None:
    raw = json.dumps(
        {"keys": [entry(limits={"requests_per_minute": 3}, expires="2027-01-01T00:00:00+01:00")]}
    )
    (key,) = parse_keys(raw.encode())
    assert (key.tenant, key.limits.requests_per_minute, key.limits.tokens_per_minute) == ("default", 3, None)
    assert key.limits.or_else(KEY_DEFAULTS).tokens_per_minute == KEY_DEFAULTS.tokens_per_minute


def test_edits_at_once_are_all_kept_and_readers_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = [make_key(f"app-{i}", ["chat"], NOW)[0] for i in range(24)]
    edit_keys(path, lambda keys: [*keys, made[0]])
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(read_keys(path)))

    def add(key: Key) -> None:
        edit_keys(path, lambda keys: [*keys, key])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=add, args=(key,)) for key in made[1:]]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert {key.id for key in read_keys(path)} == {key.id for key in made}
    assert seen == sorted(seen)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["keys.json", "keys.json.lock"]


def test_an_edit_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"{ not json")
    before = signature(path)
    with pytest.raises(BadKeyFile):
        edit_keys(path, lambda keys: keys)
    assert (path.read_bytes(), signature(path)) == (b"{ not json", before)


def test_limits_on_the_command_line() -> None:
    assert parse_limits(["requests_per_minute=5", "concurrent_requests=0"]) == Limits(
        requests_per_minute=5, concurrent_requests=0
    )
    for wrong in ("requests=5", "requests_per_minute", "requests_per_minute=-1", "requests_per_minute=many"):
        with pytest.raises(ValueError, match="limit"):
            parse_limits([wrong])
    with pytest.raises(ValueError, match="second time"):
        parse_limits(["tokens_per_minute=1", "tokens_per_minute=2"])
