"""Events whose texts only their user's key opens.

What a user said and was told, and everything that a text can be read from (token ids are text too), is
taken out of an event, compressed, encrypted with AES-256-GCM under the user's key and put back as one field.
The rest (who, when, which policy, how long, which vote) stays readable: evidence and metrics are made of it.
"""

import base64
import secrets
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import orjson
from cryptography.exceptions import InvalidTag

from feedback.core.decoded import DecodedCompletion
from feedback.core.events import WORDS_OF_VOTES, Choice, Completion, Event, Feedback
from feedback.privacy.vault import Vault
from feedback.privacy.vault_keys import KEY_ID_BYTES, NONCE_BYTES, KeyState, UserKey, VaultUnavailable
from feedback.privacy.vault_mark import is_vault_id

E = TypeVar("E", Completion, Feedback)
Keys = Mapping[str, UserKey | None]
"""Owner -> the key to seal with; None for an owner who was erased since the text began."""

_TEXTS: dict[type[Event], tuple[str, ...]] = {
    Completion: ("messages", "prompt_token_ids", "choices", "metadata"),
    Feedback: WORDS_OF_VOTES,
}
_AFTER_ID = "."  # between the vault's id and the rest; base64 has none
_MAX_BYTES = 64 * 1024 * 1024  # of one event's texts: a bound for what decompression may give


class SealBroken(ValueError):
    """A sealed event was changed, or belongs to another event."""


class Sealer:
    """Seals and opens events with the keys of a vault. The key is that of the completion's `user` or the
    vote's `rater`; what nobody said (imported rows without a rater) is under one key for all of a tenant's.

    An event loop asks for `keys` and seals with them (`seal_with`); others use `seal` and `seal_all`,
    which wait for the disk. What waits raises VaultUnavailable.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.instant = vault.instant  # now, for what begins now and is sealed later; does not wait
        self._opened: dict[str, tuple[str, int]] = {}  # owner -> whose key opened something, and when first

    # ---- sealing

    def owner(self, event: Completion | Feedback) -> str | None:
        """Whose key an event needs, None when it has no texts."""
        has_texts = any(getattr(event, name, None) for name in _TEXTS[type(event)])
        return _owner(event) if has_texts else None

    def owner_of_vote(self, vote: dict[str, Any]) -> str | None:
        """The same for the JSON of a `Feedback`."""
        has_words = any(vote.get(name) for name in WORDS_OF_VOTES)
        return f"{vote['tenant']}/{vote['rater']}" if has_words else None

    def begin(self) -> int:
        """The same for a process that has just been started: looks into the vault first."""
        self.check_vault()
        return self.instant()

    def keys(self, owners: Mapping[str, int | None]) -> "Future[Keys]":
        """The keys to seal with; does not wait. owners: each with the instant at which the text began.

        The future is done already where no disk is needed to know the keys, and resolves when all of them are
        durable. Fails with VaultUnavailable.
        """
        found = {owner: self._vault.at_hand(owner, since) for owner, since in owners.items()}
        if None in found.values():
            return self._vault.obtain(owners)
        done: Future[Keys] = Future()
        done.set_result(found)
        return done

    def seal(self, event: E, *, shared: bool = False) -> E:
        """The event with its texts sealed; one without texts as it is. shared: nobody said it."""
        owner = _shared(event.tenant) if shared else self.owner(event)
        if owner is None or not _texts(event):
            return event
        return self.seal_with(event, self.keys({owner: None}).result()[owner])

    def seal_all(
        self, events: Sequence[tuple[Completion | Feedback, bool]], since: int | None = None
    ) -> list[Completion | Feedback]:
        """The same for many, as (event, shared), with one commit for all keys that are new.

        since: the instant at which they began, None for now.
        """
        owners = [
            None if not _texts(event) else _shared(event.tenant) if shared else _owner(event)
            for event, shared in events
        ]
        keys = self.keys(dict.fromkeys((owner for owner in owners if owner is not None), since)).result()
        return [
            event if owner is None else event.model_copy(update=self._sealing(event, keys[owner]))
            for (event, _), owner in zip(events, owners, strict=True)
        ]

    def seal_with(self, event: E, key: UserKey | None) -> E:
        """The event with its texts sealed with a key; without one its texts are left out."""
        change = self._sealing(event, key)
        return event.model_copy(update=change) if change else event

    def _sealing(self, event: Completion | Feedback, key: UserKey | None) -> dict[str, Any]:
        """The fields that sealing changes."""
        texts = _texts(event)
        if not texts:
            return {}
        emptied = {name: _emptied(value) for name, value in texts.items()}
        return {**emptied, "sealed": None if key is None else self._closed(key, _bound_to(event), texts)}

    def seal_vote_with(self, vote: dict[str, Any], key: UserKey | None) -> dict[str, Any]:
        """The same for the JSON of a `Feedback`, whose texts are left out."""
        texts = {name: vote[name] for name in WORDS_OF_VOTES if vote.get(name)}
        if not texts:
            return vote
        rest = {name: value for name, value in vote.items() if name not in texts}
        if key is None:
            return rest
        bound_to = f"{vote['tenant']}\0{vote['event_id']}\0{vote['revision']}".encode()
        return {**rest, "sealed": self._closed(key, bound_to, texts)}

    def seal_texts(self, tenant: str, user: str, texts: list[Any]) -> str | None:
        """What a process remembers of a user, sealed for a file of its own; None when the user has no key,
        or was erased after the first of it was opened here."""
        owner = f"{tenant}/{user}"
        holder, since = self._opened.get(owner, (owner, None))
        key = self._vault.key(holder)
        if key is None or (since is not None and self._vault.is_erased(owner, since)):
            return None
        return self.seal_texts_with(tenant, user, texts, key)

    def seal_texts_with(self, tenant: str, user: str, texts: list[Any], key: UserKey) -> str:
        """Texts of a user for a file, sealed with a key of `keys`; `open_texts` opens them."""
        return self._closed(key, _of_file(f"{tenant}/{user}"), texts)

    def _closed(self, key: UserKey, bound_to: bytes, texts: object) -> str:
        plain = zlib.compress(orjson.dumps(texts, default=_plain), level=1)
        nonce = secrets.token_bytes(NONCE_BYTES)
        text = base64.b64encode(key.id + nonce + key.cipher.encrypt(nonce, plain, bound_to)).decode()
        return f"{self._vault.id}{_AFTER_ID}{text}"

    # ---- opening

    def open(self, event: E) -> E:
        """The event with its texts; as it is when it is not sealed, or when its user was erased.

        Raises SealBroken, a ValueError like the one for an event that does not parse, and VaultLost when
        the key ought to be here and is not.
        """
        texts = self.texts(event)
        if texts is None:
            return event
        return type(event).model_validate({**event.model_dump(), **texts, "sealed": None})

    def texts(self, event: Completion | Feedback | DecodedCompletion) -> Any:
        """What was sealed of an event, by field; None when nothing was, or its user was erased. Raises as
        `open` does."""
        if event.sealed is None:
            return None
        what = f"event {event.event_id}"
        return self._found(event.tenant, _owner(event), _bound_to(event), event.sealed, what, _MAX_BYTES)

    def open_texts(self, tenant: str, user: str, sealed: str) -> list[Any] | None:
        """What `seal_texts` sealed; None when the key was erased. Raises SealBroken and VaultLost."""
        owner = f"{tenant}/{user}"
        what = f"what is kept of {owner}"
        found: list[Any] | None = self._found(tenant, owner, _of_file(owner), sealed, what)
        return found

    def check(self, sealed: str | None) -> None:
        """Raises VaultLost for a seal that no key of this vault can open, SealBroken for what is none."""
        if sealed is not None:
            self._vault.check_seal(_parts(sealed)[0])

    def _found(
        self, tenant: str, owner: str, bound_to: bytes, sealed: str, what: str, most_bytes: int = 0
    ) -> Any:
        """What was sealed, of at most so many bytes (0: any); None when its user was erased.

        Raises SealBroken, which names `what`.
        """
        vault_id, text = _parts(sealed)
        try:
            closed = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise SealBroken(f"{what} has a seal that is not base64") from error
        found = self._vault.find([owner, _shared(tenant)], closed[:KEY_ID_BYTES], vault_id)
        if found is None:
            return None
        holder, key = found
        nonce, secret = closed[KEY_ID_BYTES:][:NONCE_BYTES], closed[KEY_ID_BYTES + NONCE_BYTES :]
        try:
            plain = key.cipher.decrypt(nonce, secret, bound_to)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{what} was changed after it was sealed") from error
        if owner not in self._opened:
            self._opened[owner] = holder, self._vault.instant()
        return orjson.loads(zlib.decompressobj().decompress(plain, most_bytes))

    # ---- users

    def was_sealed(self, tenant: str, user: str) -> bool:
        """Whether something of a user was opened here: it must not be written without a seal."""
        return f"{tenant}/{user}" in self._opened

    def erase(self, tenant: str, *users: str) -> bool:
        """Destroy the keys of users; whether there was one."""
        return self._vault.erase(*(f"{tenant}/{user}" for user in users))

    def is_erased(self, tenant: str, user: str, since: int) -> bool:
        """Whether a user was erased after an instant."""
        return self._vault.is_erased(f"{tenant}/{user}", since)

    def state(self, tenant: str, user: str) -> KeyState:
        """What the vault knows of a user."""
        return self._vault.state(f"{tenant}/{user}")

    def check_vault(self) -> None:
        """Raises VaultUnavailable when nothing can be sealed or opened now."""
        self._vault.open()

    def problem(self) -> str | None:
        """Why nothing can be sealed or opened now, None when all is well."""
        try:
            self.check_vault()
        except VaultUnavailable as error:
            return str(error)
        return None

    def close(self) -> None:
        """Finish what was asked for, and let go of the vault."""
        self._vault.close()


def vault_of(sealed: str) -> str:
    """Which vault a seal names, as it is written there; "" for none."""
    return sealed.rpartition(_AFTER_ID)[0]


def _parts(sealed: str) -> tuple[str | None, str]:
    """The vault's id and the sealed text; no id in what was sealed before vaults had one.

    Raises SealBroken.
    """
    vault_id, mark, text = sealed.rpartition(_AFTER_ID)
    if mark and not is_vault_id(vault_id):
        raise SealBroken(f"a seal names the vault {vault_id!r:.40}, and none is called so")
    return (vault_id if mark else None), text


def _shared(tenant: str) -> str:
    """Whose key what nobody said is under. No pseudonym is like it."""
    return f"{tenant}/import"


def _of_file(owner: str) -> bytes:
    return f"{owner}\0file".encode()


def _texts(event: Event) -> dict[str, Any]:
    """The fields of an event that hold texts, those that are empty left out."""
    found = {name: getattr(event, name, None) for name in _TEXTS[type(event)]}
    return {name: value for name, value in found.items() if value}


def _emptied(value: Any) -> Any:
    """What stands in an event in the place of a text, a list or an object of texts."""
    if isinstance(value, list):
        return [part.without_text() for part in value if isinstance(part, Choice)]
    return {} if isinstance(value, dict) else None


def _owner(event: Completion | Feedback | DecodedCompletion) -> str:
    return f"{event.tenant}/{event.rater if isinstance(event, Feedback) else event.user}"


def _bound_to(event: Completion | Feedback | DecodedCompletion) -> bytes:
    """What the seal also vouches for: texts cannot be moved to another event."""
    return f"{event.tenant}\0{event.event_id}\0{getattr(event, 'revision', 0)}".encode()


def _plain(value: object) -> object:
    if isinstance(value, Choice):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} in an event")
