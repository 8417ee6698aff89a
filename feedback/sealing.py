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
from feedback.vault import KEY_ID_BYTES, NONCE_BYTES, Vault

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
        plain = zlib.compress(orjson.dumps(texts, default=_plain), level=1)
        key = self._vault.key_to_write(owner)
        nonce = secrets.token_bytes(NONCE_BYTES)
        return base64.b64encode(key.id + nonce + key.cipher.encrypt(nonce, plain, bound_to)).decode()

    def erase(self, tenant: str, user: str) -> bool:
        """Destroy a user's key; whether there was one. Raises OSError."""
        return self._vault.erase(f"{tenant}/{user}")

    def open(self, event: E) -> E:
        """The event with its texts; as it is when it is not sealed, or when its key was erased.

        Raises SealBroken, a ValueError like the one for an event that does not parse.
        """
        if event.sealed is None:
            return event
        try:
            sealed = base64.b64decode(event.sealed, validate=True)
        except ValueError as error:
            raise SealBroken(f"event {event.event_id} has a seal that is not base64") from error
        key = self._vault.key(_owner(event))
        if key is None or key.id != sealed[:KEY_ID_BYTES]:
            return event
        nonce, text = sealed[KEY_ID_BYTES:][:NONCE_BYTES], sealed[KEY_ID_BYTES + NONCE_BYTES :]
        try:
            plain = key.cipher.decrypt(nonce, text, _bound_to(event))
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"event {event.event_id} was changed after it was sealed") from error
        texts: dict[str, Any] = orjson.loads(zlib.decompressobj().decompress(plain, _MAX_BYTES))
        return type(event).model_validate({**event.model_dump(), **texts, "sealed": None})


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
