"""A key is there once, for every process, until it is erased, and then for none; and no vault is mistaken."""

import hashlib
import multiprocessing
import random
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from feedback.privacy.vault import Vault
from feedback.privacy.vault_keys import UserKey, VaultDamaged, VaultLost, VaultUnavailable

SECRET = b"s" * 32
NONCE = b"n" * 12


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    opened = Vault(tmp_path / "vault", SECRET, tmp_path / "vault-id")
    yield opened
    opened.close()


def another(tmp_path: Path) -> Vault:
    """As another process has it."""
    return Vault(tmp_path / "vault", SECRET, tmp_path / "vault-id")


def sealed(key: UserKey | None) -> bytes:
    assert key is not None
    return key.cipher.encrypt(NONCE, b"text", None)


def raw(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def wrapped_keys(folder: Path) -> list[bytes]:
    db = sqlite3.connect(folder / "keys.db")
    rows = [bytes(key) for (key,) in db.execute("SELECT wrapped FROM keys ORDER BY number")]
    db.close()
    return rows


def test_a_key_is_made_once_and_found_by_others(vault: Vault, tmp_path: Path) -> None:
    assert vault.key("u_1") is None
    text = sealed(vault.key_to_write("u_1"))
    assert sealed(vault.key_to_write("u_1")) == text
    assert sealed(another(tmp_path).key("u_1")) == text
    assert sealed(vault.key_to_write("u_2")) != text


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    assert another(tmp_path).key("u_1") is None
    assert another(tmp_path).instant() == 0
    assert list(tmp_path.iterdir()) == []


def test_an_erased_key_is_gone_in_every_process_and_from_the_disk(vault: Vault, tmp_path: Path) -> None:
    other = another(tmp_path)
    vault.key_to_write("u_1")
    assert other.key("u_1") is not None  # and held there
    (wrapped,) = wrapped_keys(tmp_path / "vault")
    assert wrapped in raw(tmp_path)
    assert vault.erase("u_1")
    assert other.at_hand("u_1") is None
    assert other.key("u_1") is None
    assert vault.key("u_1") is None
    assert wrapped not in raw(tmp_path)
    assert not vault.erase("u_1")


def test_no_copy_of_an_erased_key_is_left_whatever_else_was_written(vault: Vault, tmp_path: Path) -> None:
    """Keys come and go at random; SQLite moves what it likes, and never a key."""
    chance, users = random.Random(7), [f"u_{i}" for i in range(400)]
    gone: list[bytes] = []
    for _ in range(4):
        vault.obtain(dict.fromkeys(chance.sample(users, 120))).result()
        before = wrapped_keys(tmp_path / "vault")
        vault.erase(*chance.sample(users, 30))
        gone += [key for key in before if key not in set(wrapped_keys(tmp_path / "vault"))]
    assert len(gone) > 10
    content = raw(tmp_path)
    assert [key for key in gone if key in content or key[:24] in content] == []


def test_a_user_who_comes_back_gets_another_key(vault: Vault, tmp_path: Path) -> None:
    other = another(tmp_path)
    before = sealed(vault.key_to_write("u_1"))
    assert other.key("u_1") is not None
    vault.erase("u_1")
    assert sealed(vault.key_to_write("u_1")) != before
    known = other.key("u_1")
    assert sealed(known) != before
    assert known is not None
    assert known.id == vault.key_to_write("u_1").id


def test_what_began_before_an_erasure_gets_no_key(vault: Vault, tmp_path: Path) -> None:
    other = another(tmp_path)
    vault.key_to_write("u_1")
    other.key("u_1")
    began, began_there = vault.instant(), other.instant()
    assert vault.at_hand("u_1", began) is not None
    vault.erase("u_1")
    vault.erase("u_new")  # whose first text is under way
    for one, since in ((vault, began), (other, began_there)):
        assert one.at_hand("u_1", since) is None
        keys = one.obtain(dict.fromkeys(["u_1", "u_2", "u_new"], since)).result()
        assert [user for user, key in keys.items() if key is None] == ["u_1", "u_new"]
        assert one.is_erased("u_1", since)
    came_back = vault.instant()
    assert vault.obtain({"u_1": came_back}).result()["u_1"] is not None
    assert vault.at_hand("u_1", came_back) is not None
    assert vault.at_hand("u_1", began) is None


def test_at_hand_is_what_needs_no_disk_and_is_durable(vault: Vault, tmp_path: Path) -> None:
    assert vault.at_hand("u_1") is None
    key = vault.obtain({"u_1": None}).result()["u_1"]
    assert vault.at_hand("u_1") is key
    assert sealed(another(tmp_path).key("u_1")) == sealed(key)


def test_many_new_users_are_one_commit(vault: Vault, tmp_path: Path) -> None:
    vault.obtain({f"u_{i}": None for i in range(500)}).result()
    assert sum(path.is_file() for path in (tmp_path / "vault").iterdir()) <= 3


def test_processes_that_make_a_key_at_once_agree(tmp_path: Path) -> None:
    texts = set()
    start = threading.Barrier(8)

    def write() -> None:
        vault = another(tmp_path)
        start.wait()
        texts.add(sealed(vault.key_to_write("u_1")))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 1


def test_a_key_is_useless_without_the_secret_and_under_another_name(vault: Vault, tmp_path: Path) -> None:
    vault.key_to_write("u_1")
    with pytest.raises(VaultDamaged):
        Vault(tmp_path / "vault", b"t" * 32).key("u_1")
    vault.key_to_write("u_2")
    first, _ = wrapped_keys(tmp_path / "vault")
    db = sqlite3.connect(tmp_path / "vault/keys.db")
    with db:
        db.execute("UPDATE keys SET wrapped = ? WHERE number = 2", (first,))
    db.close()
    with pytest.raises(VaultDamaged):
        another(tmp_path).key("u_2")
    for path in (tmp_path / "vault").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_closed_vault_says_so(vault: Vault) -> None:
    vault.close()
    with pytest.raises(VaultUnavailable, match="closed"):
        vault.key_to_write("u_1")


# ---- which vault


def kept(vault: Vault, user: str) -> tuple[bytes, str]:
    """What a seal has of its key."""
    key = vault.key_to_write(user)
    assert vault.id is not None
    return key.id, vault.id


def test_erased_is_who_was_erased_and_not_who_has_no_key(vault: Vault, tmp_path: Path) -> None:
    seal = kept(vault, "u_1")
    vault.key_to_write("u_2")
    assert vault.find(["u_1"], *seal) is not None
    vault.erase("u_1")
    assert another(tmp_path).find(["u_1"], *seal) is None
    with pytest.raises(VaultLost, match="u_2 is missing"):
        another(tmp_path).find(["u_2"], b"no such.", seal[1])  # an older copy was put back


def test_an_empty_mount_is_a_lost_vault_for_readers_and_writers(vault: Vault, tmp_path: Path) -> None:
    seal = kept(vault, "u_1")
    (tmp_path / "vault").rename(tmp_path / "elsewhere")
    (tmp_path / "vault").mkdir()
    for one in (vault, another(tmp_path)):
        for ask in (
            lambda one=one: one.find(["u_1"], *seal),
            lambda one=one: one.key("u_1"),
            lambda one=one: one.key_to_write("u_2"),
            lambda one=one: one.erase("u_1"),
            lambda one=one: one.open(),
        ):
            with pytest.raises(VaultLost, match="right volume"):
                ask()
        assert one.at_hand("u_1") is None
    assert list((tmp_path / "vault").iterdir()) == []
    (tmp_path / "vault").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "vault")
    assert vault.find(["u_1"], *seal) is not None
    assert another(tmp_path).find(["u_1"], *seal) is not None


def test_a_reader_without_a_memory_knows_a_stranger_by_the_seal(vault: Vault, tmp_path: Path) -> None:
    seal = kept(vault, "u_1")
    (tmp_path / "new").mkdir()
    reader = Vault(tmp_path / "new/vault", SECRET, tmp_path / "new/vault-id")
    with pytest.raises(VaultLost, match="is no vault"):
        reader.find(["u_1"], *seal)
    reader.key_to_write("u_9")
    with pytest.raises(VaultLost, match="the right one"):
        reader.find(["u_1"], *seal)
    with pytest.raises(VaultLost):
        reader.check_seal(seal[1])
    reader.check_seal(reader.id)


def test_another_vault_in_the_place_of_the_known_one_is_lost(vault: Vault, tmp_path: Path) -> None:
    vault.key_to_write("u_1")
    shutil.rmtree(tmp_path / "vault")
    Vault(tmp_path / "vault", SECRET).key_to_write("u_1")
    for one in (vault, another(tmp_path)):
        with pytest.raises(VaultLost, match="was used with the vault"):
            one.key("u_1")


def test_no_key_goes_into_a_file_that_was_put_away(vault: Vault, tmp_path: Path) -> None:
    """An older copy is put back while a process has the vault open: it goes on with that one."""
    vault.key_to_write("u_1")
    shutil.copy(tmp_path / "vault/keys.db", tmp_path / "copy.db")
    vault.key_to_write("u_2")
    (tmp_path / "vault/keys.db").unlink()
    shutil.copy(tmp_path / "copy.db", tmp_path / "vault/keys.db")
    text = sealed(vault.key_to_write("u_3"))
    assert sealed(another(tmp_path).key("u_3")) == text
    assert vault.key("u_2") is None


def test_an_operator_can_give_up_what_was_lost(vault: Vault, tmp_path: Path) -> None:
    seal = kept(vault, "u_1")
    shutil.rmtree(tmp_path / "vault")
    another(tmp_path).give_up()
    assert vault.find(["u_1"], *seal) is None
    assert sealed(vault.key_to_write("u_1")) == sealed(another(tmp_path).key("u_1"))
    (tmp_path / "vault-id").write_text(seal[1])  # of another pod, which has not heard of it
    assert another(tmp_path).find(["u_1"], *seal) is None
    another(tmp_path).key_to_write("u_3")
    assert (tmp_path / "vault-id").read_text().strip() == vault.id


# ---- the files of before


def old_vault(folder: Path, users: list[str]) -> dict[str, bytes]:
    """A vault of one file per user, as versions before wrote it. What its keys seal."""
    wrapping = AESGCM(HKDF(SHA256(), 32, salt=None, info=b"hearken vault").derive(SECRET))
    texts = {}
    for user in users:
        name = hashlib.sha256(user.encode()).hexdigest()
        path = folder / name[:2] / name[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
        path.write_bytes(nonce + wrapping.encrypt(nonce, key, user.encode()))
        texts[user] = AESGCM(key).encrypt(NONCE, b"text", None)
    return texts


def test_a_vault_of_before_is_taken_over_once(tmp_path: Path) -> None:
    texts = old_vault(tmp_path / "vault", [f"u_{i}" for i in range(120)])
    assert {user: sealed(another(tmp_path).key(user)) for user in list(texts)[:20]} == {
        user: texts[user] for user in list(texts)[:20]
    }
    assert len(wrapped_keys(tmp_path / "vault")) == 120
    assert sorted(path.name for path in (tmp_path / "vault").iterdir() if path.is_dir()) == []
    reader = another(tmp_path)
    assert reader.find(["u_gone"], b"erased..", None) is None  # old erasures left no note
    with pytest.raises(VaultLost):
        reader.find(["u_gone"], b"erased..", reader.id)


def test_a_vault_of_before_in_another_folder_is_taken_over_and_erased_too(tmp_path: Path) -> None:
    texts = old_vault(tmp_path / "vault-before", ["u_1", "u_2"])
    moved = Vault(tmp_path / "vault", SECRET, tmp_path / "vault-id", tmp_path / "vault-before")
    assert sealed(moved.key("u_1")) == texts["u_1"]
    assert list((tmp_path / "vault-before").iterdir()) == []
    old_vault(tmp_path / "vault-before", ["u_3"])  # a process of before writes on
    assert moved.erase("u_3")
    assert moved.key("u_3") is None
    assert sealed(another(tmp_path).key("u_2")) == texts["u_2"]


def test_what_a_process_of_before_writes_later_is_found(tmp_path: Path) -> None:
    old_vault(tmp_path / "vault", ["u_1"])
    reader = another(tmp_path)
    reader.key_to_write("u_1")
    text = old_vault(tmp_path / "vault", ["u_2"])["u_2"]
    with pytest.raises(VaultLost):
        reader.find(["u_3"], b"no such.", reader.id)
    assert sealed(reader.key("u_2")) == text


def _take_over(folder: Path, erase: str) -> None:
    vault = another(folder)
    if erase:
        vault.erase(erase)
    vault.key("u_0")
    vault.close()


def test_starting_at_once_takes_each_key_over_once_and_brings_none_back(tmp_path: Path) -> None:
    texts = old_vault(tmp_path / "vault", [f"u_{i}" for i in range(60)])
    spawn = multiprocessing.get_context("spawn")
    starters = [spawn.Process(target=_take_over, args=(tmp_path, name)) for name in ("u_7", "", "u_8")]
    for each in starters:
        each.start()
    for each in starters:
        each.join(60)
        assert each.exitcode == 0
    reader = another(tmp_path)
    known = {user: reader.key(user) for user in texts}
    assert [user for user, key in known.items() if key is None] == ["u_7", "u_8"]
    assert all(key is None or sealed(key) == texts[user] for user, key in known.items())
    assert sum(any(key) for key in wrapped_keys(tmp_path / "vault")) == 58
