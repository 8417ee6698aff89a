"""Identity is signed, not looked up: ids that prove themselves, and names that hide whom they name."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

PREFIX = "chatcmpl-"
RESPONSE_PREFIX = "resp_"
MESSAGE_PREFIX = "msg_"
_PURPOSES = {
    PREFIX: "completion",
    RESPONSE_PREFIX: f"completion {RESPONSE_PREFIX}",
    MESSAGE_PREFIX: f"completion {MESSAGE_PREFIX}",
}
"""What the HMAC of an id is for, by the id's prefix: an id of one prefix is none of another."""
PREFIXES = tuple(_PURPOSES)
"""Of completion ids: each API's clients expect its own."""
_RANDOM_HEX = 24
_PSEUDONYM = re.compile(r"u_[0-9a-f]{24}")
_TAG_HEX = 16


class Signer:
    """Signs completion ids and pseudonymises users with one secret (at least 16 bytes)."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"the signing secret has {len(secret)} bytes; at least 16 are needed")
        self._secret = secret

    def new_completion_id(self, prefix: str = PREFIX) -> str:
        """A fresh id that `is_ours` accepts: a prefix + 24 random hex digits + 16 of their HMAC."""
        random = secrets.token_hex(_RANDOM_HEX // 2)
        return prefix + random + self.sign(_PURPOSES[prefix], random, _TAG_HEX)

    def is_ours(self, completion_id: str) -> bool:
        """Whether this service issued the id: no database, so it works before the completion is logged."""
        prefix = next((each for each in PREFIXES if completion_id.startswith(each)), None)
        if prefix is None or not completion_id.isascii():
            return False
        body = completion_id[len(prefix) :]
        if len(body) != _RANDOM_HEX + _TAG_HEX:
            return False
        expected = self.sign(_PURPOSES[prefix], body[:_RANDOM_HEX], _TAG_HEX)
        return hmac.compare_digest(body[_RANDOM_HEX:], expected)

    def sign(self, purpose: str, text: str, length: int = 32) -> str:
        """Hex digits that only this secret gives for a text. A signature is good for its purpose alone."""
        # The one-shot digest takes a quarter of the time of hmac.new, and every vote needs two.
        return hmac.digest(self._secret, f"{purpose}\0{text}".encode(), "sha256").hex()[:length]

    def prompt_hash(self, token_ids: Sequence[int]) -> str:
        """Names a prompt without its words; only who has the secret can tell which prompt it is."""
        return self.sign("prompt", " ".join(map(str, token_ids)), 16)

    @staticmethod
    def is_pseudonym(name: str) -> bool:
        """Whether a name looks like one that `pseudonym` gave."""
        return _PSEUDONYM.fullmatch(name) is not None

    def pseudonym(self, tenant: str, user: str) -> str:
        """The name under which an end user is logged: stable, and meaningless without the secret."""
        return "u_" + self.sign("user", f"{tenant}\0{user}", 24)


def vote_id(tenant: str, rater: str, kind: str, targets: list[tuple[str, int]]) -> str:
    """One rater has one vote of a kind on a target: the same vote again gets the same id.

    `targets` are places (see `events.Target.place`); that of a metric or signal has its name in `kind`, as
    "metric:latency". The order of targets does not matter, so a comparison sent as (b, a) revises the one
    sent as (a, b).
    """
    parts = [tenant, rater, kind, *(f"{completion}#{choice}" for completion, choice in sorted(targets))]
    return "fb-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
