"""Events whose texts only their user's key opens.

What a user said and was told, and everything that a text can be read from (token ids are text too), is
taken out of an event, compressed, encrypted with AES-256-GCM under the user's key and put back as one field.
The rest (who, when, which policy, how long, which vote) stays readable: evidence and metrics are made of it.
"""

import base64
import secrets
import zlib
from typing import Any, TypeVar

import orjson
from cryptography.exceptions import InvalidTag

from feedback.events import Choice, Completion, Event, Feedback
from feedback.vault import KEY_ID_BYTES, NONCE_BYTES, UserKey, Vault

E = TypeVar("E", Completion, Feedback)

_TEXTS: dict[type[Event], tuple[str, ...]] = {
    Completion: ("messages", "prompt_token_ids", "choices", "metadata"),
    Feedback: ("text", "comment", "metadata", "tags"),
}
_MAX_BYTES = 64 * 1024 * 1024  # of one event's texts: a bound for what decompression may give


class SealBroken(ValueError):
    """A sealed event was changed, or belongs to another event."""


class Sealer:
    """Seals and opens events with the keys of a vault. The key is that of the completion's `user` or the
    vote's `rater`.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._opened: set[str] = set()  # owners of whom something was opened

    def seal(self, event: E) -> E:
        """The event with its texts sealed; one without texts as it is. Raises OSError without a key."""
        texts = _texts(event)
        if not texts:
            return event
        emptied = {name: _emptied(value) for name, value in texts.items()}
        sealed = self._sealed(_owner(event), _bound_to(event), texts)
        return event.model_copy(update={**emptied, "sealed": sealed})

    def seal_vote(self, vote: dict[str, Any]) -> dict[str, Any]:
        """The same for the JSON of a `Feedback`, whose texts are left out."""
        texts = {name: vote[name] for name in _TEXTS[Feedback] if vote.get(name)}
        if not texts:
            return vote
        owner = f"{vote['tenant']}/{vote['rater']}"
        bound_to = f"{vote['tenant']}\0{vote['event_id']}\0{vote['revision']}".encode()
        rest = {name: value for name, value in vote.items() if name not in texts}
        return {**rest, "sealed": self._sealed(owner, bound_to, texts)}

    def _sealed(self, owner: str, bound_to: bytes, texts: dict[str, Any]) -> str:
        return _closed(self._vault.key_to_write(owner), bound_to, texts)

    def seal_texts(self, tenant: str, user: str, texts: list[Any]) -> str | None:
        """What a process remembers of a user, sealed for a file of its own; None when the user has no key."""
        owner = f"{tenant}/{user}"
        key = self._vault.key(owner)
        return None if key is None else _closed(key, _of_file(owner), texts)

    def open_texts(self, tenant: str, user: str, sealed: str) -> list[Any] | None:
        """What `seal_texts` sealed; None when the key was erased. Raises SealBroken."""
        owner = f"{tenant}/{user}"
        found: list[Any] | None = self._found(owner, _of_file(owner), sealed, f"what is kept of {owner}")
        return found

    def was_sealed(self, tenant: str, user: str) -> bool:
        """Whether something of a user was opened here: it must not be written without a seal."""
        return f"{tenant}/{user}" in self._opened

    def erase(self, tenant: str, user: str) -> bool:
        """Destroy a user's key; whether there was one. Raises OSError."""
        return self._vault.erase(f"{tenant}/{user}")

    def open(self, event: E) -> E:
        """The event with its texts; as it is when it is not sealed, or when its key was erased.

        Raises SealBroken, a ValueError like the one for an event that does not parse.
        """
        if event.sealed is None:
            return event
        texts = self._found(
            _owner(event), _bound_to(event), event.sealed, f"event {event.event_id}", _MAX_BYTES
        )
        if texts is None:
            return event
        return type(event).model_validate({**event.model_dump(), **texts, "sealed": None})

    def _found(self, owner: str, bound_to: bytes, sealed: str, what: str, most_bytes: int = 0) -> Any:
        """What was sealed, of at most so many bytes (0: any); None when its key was erased.

        Raises SealBroken, which names `what`.
        """
        try:
            closed = base64.b64decode(sealed, validate=True)
        except ValueError as error:
            raise SealBroken(f"{what} has a seal that is not base64") from error
        key = self._vault.key(owner)
        if key is None or key.id != closed[:KEY_ID_BYTES]:
            return None
        nonce, text = closed[KEY_ID_BYTES:][:NONCE_BYTES], closed[KEY_ID_BYTES + NONCE_BYTES :]
        try:
            plain = key.cipher.decrypt(nonce, text, bound_to)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{what} was changed after it was sealed") from error
        self._opened.add(owner)
        return orjson.loads(zlib.decompressobj().decompress(plain, most_bytes))


def _closed(key: UserKey, bound_to: bytes, texts: object) -> str:
    plain = zlib.compress(orjson.dumps(texts, default=_plain), level=1)
    nonce = secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(key.id + nonce + key.cipher.encrypt(nonce, plain, bound_to)).decode()


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


def _owner(event: Event) -> str:
    owner: str = event.user if isinstance(event, Completion) else event.rater  # type: ignore[attr-defined]
    return f"{event.tenant}/{owner}"


def _bound_to(event: Event) -> bytes:
    """What the seal also vouches for: texts cannot be moved to another event."""
    return f"{event.tenant}\0{event.event_id}\0{getattr(event, 'revision', 0)}".encode()


def _plain(value: object) -> object:
    if isinstance(value, Choice):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} in an event")
