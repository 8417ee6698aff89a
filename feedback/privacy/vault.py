"""One key for every user, so that destroying it makes all that was ever written of the user unreadable.

The log, its copies in Kafka and the backups of both hold texts only under these keys (see `sealing`). The
keys lie in a folder of their own, in one file (`vault_file`), which every process of the service sees. Leave
that folder out of the backups of the log: an erased key must not come back with them.

Nobody is taken for erased because a key is not there: an erasure leaves a note. A vault knows who it is
(`vault_mark`), what is sealed names its vault, and the data folder remembers which one it was used with. So
an empty mount, an older copy or a stranger's vault is `VaultLost`, and a reader stops where it is.
"""

import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from feedback.core.group_commit import GroupCommit
from feedback.privacy.vault_file import VaultFile, old_folders
from feedback.privacy.vault_keys import KeyState, UserKey, VaultLost, VaultUnavailable, Wrapping, owner_of
from feedback.privacy.vault_mark import Look, Mark
from feedback.privacy.vault_record import Record
from feedback.sqlite.file import die, is_io_error

logger = logging.getLogger(__name__)

_CACHED_USERS = 10_000


class _Held(NamedTuple):
    keys: tuple[UserKey, ...]  # the newest first
    erased: int  # the number of the user's newest erasure


class _Erased(NamedTuple):
    user: str
    had_key: bool


_Do = Callable[[VaultFile], Any]


class Vault:
    """The keys of users, wrapped with a key that follows from the secret. For any thread and process.

    One thread writes: whatever waits when it comes round is one commit. Every look at a key begins with a
    `stat` of the vault's mark, so an erasure by another process counts at once. `record`: a file outside
    of the vault that remembers which vault was used. `before`: a folder that also may have files of before,
    one for each user, which are taken over.
    """

    def __init__(
        self, folder: Path, secret: bytes, record: Path | None = None, before: Path | None = None
    ) -> None:
        self._folder = folder
        self._olds = [folder] if before is None else [folder, before]
        self._record = Record(record)
        self._mark = Mark(folder)
        self._wrapping = Wrapping(secret)
        self._lock = threading.RLock()  # guards all below; what does not wait only looks
        self._file: VaultFile | None = None
        self._id: str | None = None
        self._look: Look | None = None  # as of which all that is remembered here is known to be true
        self._erasures = 0
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._fresh: dict[str, _Held] = {}  # of a commit under way: not durable yet
        self._refreshing = False
        self._writer = GroupCommit[_Do]("vault", self._commit)

    @property
    def id(self) -> str | None:
        """Which vault this is; known as soon as a key of it is."""
        return self._id

    # ---- without waiting: for an event loop

    def at_hand(self, user: str, since: int | None = None) -> UserKey | None:
        """The user's key if that is known without looking into the file; see `obtain` for `since`."""
        held = self._held.get(user)
        if held is None or self._look != self._mark.look() or (since is not None and held.erased > since):
            return None
        return held.keys[0]

    def instant(self) -> int:
        """Now, as erasures count time: those that come later have higher numbers."""
        if self._look != self._mark.look() and not self._refreshing:
            self._refreshing = True
            self._submit(_nothing)  # a commit begins by looking
        return self._erasures

    def obtain(self, users: Mapping[str, int | None]) -> "Future[Mapping[str, UserKey | None]]":
        """The users' keys, made if there are none, and durable when the future resolves.

        users: each with the instant at which began what is to be sealed, None for now. The key of one who was
        erased since is None: what began before is not to be kept. Fails with VaultUnavailable.
        """
        wanted = dict(users)

        def look(file: VaultFile) -> Mapping[str, UserKey | None]:
            return {user: self._found_or_made(file, user, since) for user, since in wanted.items()}

        return self._submit(look)

    # ---- waiting: for other threads. All raise VaultUnavailable.

    def open(self) -> str | None:
        """Look whether all is well; the vault's id, None when there is none yet."""
        with self._working():
            return self._id

    def key(self, user: str) -> UserKey | None:
        """The user's key, or None when there is none: nothing was written yet, or it was erased."""
        with self._working() as file:
            held = self._held.get(user) or (file and self._read(file, user))
            return held.keys[0] if held else None

    def key_to_write(self, user: str) -> UserKey:
        """The user's key, made and on disk before this returns if there was none."""
        key = self.at_hand(user) or self.obtain({user: None}).result()[user]
        assert key is not None
        return key

    def find(self, users: Sequence[str], key_id: bytes, vault_id: str | None) -> tuple[str, UserKey] | None:
        """The key with an id, of the first of `users` or one whose key they share, and whose it is.

        None when the first of `users` was erased. vault_id: of what was sealed, None for what was before
        vaults had one. Raises VaultLost where the key ought to be here.
        """
        with self._working() as file:
            found = self._match(file, users, key_id)
            if found is None and file is not None and old_folders(self._olds):
                self._take_over(file)  # a process of before wrote since
                found = self._match(file, users, key_id)
            if found is not None:
                self._remember()
            if found is not None and found[0] == users[0]:
                return found
            if self._is_erased(file, users[0], 0):
                return None
            if found is None:
                self._check_may_lack(file, users[0], vault_id)
            return found

    def is_erased(self, user: str, since: int) -> bool:
        """Whether a user was erased after an instant."""
        with self._working() as file:
            return self._is_erased(file, user, since)

    def check_seal(self, vault_id: str | None) -> None:
        """Raises VaultLost when texts sealed by a vault of this id cannot be this vault's."""
        with self._working() as file:
            if vault_id != self._id:
                self._check_may_lack(file, "a user", vault_id)

    def state(self, user: str) -> KeyState:
        """What is known of a user here."""
        with self._working() as file:
            if file is None:
                return KeyState(False, None)
            return KeyState(bool(file.wrapped(owner_of(user))), file.erased(owner_of(user))[1])

    def erase(self, *users: str) -> bool:
        """Destroy the keys of users; whether there was one. Durable when this returns."""

        def destroy(user: str, file: VaultFile) -> _Erased:
            self._fresh.pop(user, None)
            return _Erased(user, file.erase(owner_of(user)))

        under_way = [self._submit(partial(destroy, user)) for user in users]
        had_key = [erased.result().had_key for erased in under_way]  # wait for all of them
        return any(had_key)

    def give_up(self) -> str:
        """Take every text whose key is not here for lost, and go on with this vault, whose id is given."""
        with self._lock:
            self._record.forget()
            with self._working(write=True) as file:
                assert file is not None
                assert self._id is not None
                with file.transaction():
                    file.put_fact("gave_up", "1")
                self._remember()
                return self._id

    def close(self) -> None:
        """Finish what was asked for, and let go of the file."""
        self._writer.close()
        with self._lock:
            self._let_go()

    # ---- the writing thread

    def _submit(self, do: _Do) -> "Future[Any]":
        done = self._writer.submit(do)
        if done is None:
            done = Future()
            done.set_exception(VaultUnavailable(f"the vault {self._folder} is closed"))
        return done

    def _commit(self, group: Sequence[_Do]) -> list[Any]:
        self._refreshing = False
        with self._working(write=True) as file:
            assert file is not None
            self._fresh.clear()
            with file.transaction():
                results = [do(file) for do in group]
            if erased := [result for result in results if isinstance(result, _Erased)]:
                self._tell(file, erased)
            for user, held in self._fresh.items():
                self._hold(user, held)
            self._remember()
            return results

    def _tell(self, file: VaultFile, erased: Sequence[_Erased]) -> None:
        """Let every process see that there were erasures, this one included."""
        before = self._look
        for each in erased:
            self._mark.ring()
            self._held.pop(each.user, None)
        after = self._mark.look()
        self._erasures = file.erasures()
        if before is not None and after is not None and after.size == before.size + len(erased):
            self._look = after  # nobody else rang: the rest of what is held here is still true

    def _found_or_made(self, file: VaultFile, user: str, since: int | None) -> UserKey | None:
        if since is not None and self._is_erased(file, user, since):
            return None
        held = self._fresh.get(user) or self._as_filed(file, user)
        if held is None:
            key, wrapped = self._wrapping.new(user)
            file.add(owner_of(user), wrapped)
            held = _Held((key,), file.erased(owner_of(user))[0])
        self._fresh[user] = held
        return held.keys[0]

    # ---- with the lock

    @contextmanager
    def _working(self, *, write: bool = False) -> Iterator[VaultFile | None]:
        """The file, alone in this process; None when there is none yet, unless to write.

        What a file and a disk can say becomes VaultUnavailable; after a failed fsync the process ends.
        """
        with self._lock:
            try:
                yield self._current(write=write)
            except VaultUnavailable:
                raise
            except (sqlite3.Error, OSError, ValueError) as error:
                if write and is_io_error(error):
                    die(self._folder, error)
                self._let_go()
                raise VaultUnavailable(f"the vault {self._folder} cannot be used: {error}") from error

    def _current(self, *, write: bool) -> VaultFile | None:
        """The file, what is remembered here being true."""
        look, known = self._mark.look(), self._look
        if self._file is not None and look is not None and known is not None:
            if look == known and (not write or self._file.is_there()):
                return self._file
            # An inode of a file that is gone is soon another one's.
            if (
                self._mark.id() == self._id and look.same_file(known) and self._file.is_there()
            ):  # somebody rang
                self._held.clear()
                self._erasures = self._file.erasures()
                self._look = look
                return self._file
        self._let_go()
        return self._opened(write=write)

    def _opened(self, *, write: bool) -> VaultFile | None:
        vault_id, recorded, is_old = self._mark.id(), self._record.read(), bool(old_folders(self._olds))
        if vault_id is None:
            if recorded is not None:
                raise VaultLost(
                    f"there is no vault in {self._folder}, and {self._record} was used with the vault "
                    f"{recorded}: is the right volume mounted? {_WAY_OUT}"
                )
            if not (write or is_old):
                return None
        file = VaultFile(self._folder, self._olds)
        try:
            if is_old:
                self._take_over(file)
            if vault_id is None:
                self._mark.make(file.fact("id") or "")
                vault_id = self._mark.id()
            self._check_identity(file, vault_id, recorded)
            self._look, self._erasures = self._mark.look(), file.erasures()
        except BaseException:
            file.close()
            raise
        self._file, self._id = file, vault_id
        return file

    def _check_identity(self, file: VaultFile, vault_id: str | None, recorded: str | None) -> None:
        if vault_id is None or file.fact("id") != vault_id:
            raise VaultLost(f"the keys in {self._folder} are not those of its vault {vault_id}")
        if recorded in (None, vault_id):
            return
        if file.fact("gave_up") is None:
            raise VaultLost(
                f"{self._folder} is the vault {vault_id}, and {self._record} was used with the vault "
                f"{recorded}: is the right volume mounted? {_WAY_OUT}"
            )
        self._record.forget()

    def _take_over(self, file: VaultFile) -> None:
        count = file.take_over()
        logger.info("took over the keys of %d users into %s", count, self._folder)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._id, self._look, self._erasures = None, None, None, 0
        self._record.look_again()
        self._held.clear()

    def _remember(self) -> None:
        """Keep beside the log which vault was used with it, from the first key on."""
        if self._id is not None:
            self._record.remember(self._id)

    def _match(
        self, file: VaultFile | None, users: Sequence[str], key_id: bytes
    ) -> tuple[str, UserKey] | None:
        for user in users:
            key = _with_id(self._held.get(user), key_id)
            if key is None and file is not None:
                key = _with_id(self._read(file, user), key_id)
            if key is not None:
                return user, key
        return None

    def _read(self, file: VaultFile, user: str) -> _Held | None:
        """A user's keys as the file has them, to be held from now on."""
        held = self._as_filed(file, user)
        return None if held is None else self._hold(user, held)

    def _as_filed(self, file: VaultFile, user: str) -> _Held | None:
        keys = tuple(self._wrapping.open(user, wrapped) for wrapped in file.wrapped(owner_of(user)))
        return _Held(keys, file.erased(owner_of(user))[0]) if keys else None

    def _hold(self, user: str, held: _Held) -> _Held:
        self._held[user] = held
        if len(self._held) > _CACHED_USERS:
            self._held.popitem(last=False)
        return held

    def _is_erased(self, file: VaultFile | None, user: str, since: int) -> bool:
        return file is not None and file.erased(owner_of(user))[0] > since

    def _check_may_lack(self, file: VaultFile | None, user: str, vault_id: str | None) -> None:
        """Raises VaultLost unless it is no wonder that a key is not here, of a text sealed with a vault."""
        if file is not None:
            was_old = vault_id is None and file.fact("took_over") is not None  # erasures left no note then
            if was_old or file.fact("gave_up") is not None:
                return
        sealed_with = "a vault of before" if vault_id is None else f"the vault {vault_id}"
        here = "no vault" if self._id is None else f"the vault {self._id}"
        raise VaultLost(
            f"a key of {user} is missing: its texts were sealed with {sealed_with}, and {self._folder} is "
            f"{here}, in which nobody erased it. Mount the right one. {_WAY_OUT}"
        )


_WAY_OUT = "`hearken vault renew` gives up all texts whose keys are not here"


def _with_id(held: _Held | None, key_id: bytes) -> UserKey | None:
    return next((key for key in held.keys if key.id == key_id), None) if held is not None else None


def _nothing(_: VaultFile) -> None:
    """What is asked for to have the writing thread look."""
