"""A key is there once, for every process, until it is erased, and then for none."""

import threading
from pathlib import Path

import pytest

from feedback.vault import Vault, VaultDamaged

SECRET = b"s" * 32
NONCE = b"n" * 12


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path, SECRET)


def test_a_key_is_made_once_and_found_by_others(vault: Vault, tmp_path: Path) -> None:
    assert vault.key("u_1") is None
    sealed = vault.key_to_write("u_1").cipher.encrypt(NONCE, b"text", None)
    assert vault.key_to_write("u_1").cipher.decrypt(NONCE, sealed, None) == b"text"
    other = Vault(tmp_path, SECRET).key("u_1")
    assert other is not None
    assert other.cipher.decrypt(NONCE, sealed, None) == b"text"
    assert vault.key_to_write("u_2").cipher.encrypt(NONCE, b"text", None) != sealed


def test_an_erased_key_is_gone_in_every_process_and_from_the_disk(vault: Vault, tmp_path: Path) -> None:
    other = Vault(tmp_path, SECRET)
    vault.key_to_write("u_1")
    assert other.key("u_1") is not None  # and cached there
    assert vault.erase("u_1")
    assert other.key("u_1") is None
    assert vault.key("u_1") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not vault.erase("u_1")


def test_a_user_who_comes_back_gets_another_key(vault: Vault, tmp_path: Path) -> None:
    other = Vault(tmp_path, SECRET)
    before = vault.key_to_write("u_1").cipher.encrypt(NONCE, b"text", None)
    assert other.key("u_1") is not None
    vault.erase("u_1")
    assert vault.key_to_write("u_1").cipher.encrypt(NONCE, b"text", None) != before
    known = other.key("u_1")
    assert known is not None
    assert known.cipher.encrypt(NONCE, b"text", None) != before
    assert known.id == vault.key_to_write("u_1").id


def test_processes_that_make_a_key_at_once_agree(tmp_path: Path) -> None:
    sealed = set()
    start = threading.Barrier(8)

    def write() -> None:
        vault = Vault(tmp_path, SECRET)
        start.wait()
        sealed.add(vault.key_to_write("u_1").cipher.encrypt(NONCE, b"text", None))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sealed) == 1


def test_a_key_is_useless_without_the_secret_and_under_another_name(vault: Vault, tmp_path: Path) -> None:
    vault.key_to_write("u_1")
    with pytest.raises(VaultDamaged):
        Vault(tmp_path, b"t" * 32).key("u_1")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    vault.key_to_write("u_2")
    (second,) = (path for path in tmp_path.rglob("*") if path.is_file() and path != file)
    second.write_bytes(file.read_bytes())
    with pytest.raises(VaultDamaged):
        Vault(tmp_path, SECRET).key("u_2")
    assert file.stat().st_mode & 0o077 == 0
