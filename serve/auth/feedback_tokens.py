"""Tokens with which a browser votes on the answer that it was given, without any API key.

A token is good for the completions that it names, for the rater that they were made for, and for a day: an
answer is judged while it is on the screen, and a stolen token is one vote on one answer. It ends when the key
that asked for the answer is revoked. Nothing is stored; the token says it all and is signed::

    fbt_<base64url of [expires at, tenant, rater, [completion ids], key id, instant] as JSON>.<32 hex of HMAC>

The instant (see `feedback.privacy.vault`) tells whether the rater was erased since: words that come with a
token of before are not kept.
"""

import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from feedback.core.ids import Signer
from serve.auth.caller import Caller
from serve.auth.limits import NO_LIMITS, Limits
from serve.http.errors import Unauthorized

PREFIX = "fbt_"
HEADER = "x-hearken-feedback-token"
EXTENSION = "hearken"  # the field of a completion's body that OpenAI does not have; clients ignore it
GOOD_SECONDS = 24 * 3600

BROWSER = Caller(
    key_id="token",
    scopes=frozenset({"feedback"}),
    limits=Limits(user_requests_per_minute=60).or_else(NO_LIMITS),
)
"""What limits those who vote with tokens: each rater by themselves."""

_PURPOSE = "feedback token of a key"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows: votes of `rater` on these completions, until `expires_at` (Unix seconds).

    `key_id`: of the key that asked for the answer, "" in an open service.
    """

    expires_at: int
    tenant: str
    rater: str
    completion_ids: frozenset[str]
    key_id: str
    since: int = 0  # when it was issued, as erasures count time


def presented(headers: Mapping[str, str]) -> str | None:
    """The token in a request's headers: in one of its own, or where an API key would be."""
    token = headers.get(HEADER)
    if token is not None:
        return token
    kind, _, bearer = headers.get("authorization", "").strip().partition(" ")
    bearer = bearer.strip()
    return bearer if kind.lower() == "bearer" and bearer.startswith(PREFIX) else None


def found(raw: bytes) -> str | None:
    """The token that a vote brings in its body, or the first vote of an array: `navigator.sendBeacon` can set
    no headers."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if isinstance(body, list) and body:
        body = body[0]
    token = body.get("token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else None


class Tokens:
    """Issues tokens and checks them. `is_trusted`: whether a key, by its id, was not revoked since."""

    def __init__(self, signer: Signer, is_trusted: Callable[[str], bool]) -> None:
        self._signer = signer
        self._is_trusted = is_trusted

    def issue(
        self, caller: Caller, rater: str, completion_ids: list[str], now: float, since: int = 0
    ) -> tuple[str, int]:
        """A token for votes on these completions, and when it expires (Unix seconds).

        since: when the request for them began, as erasures count time.
        """
        expires_at = int(now) + GOOD_SECONDS
        said = orjson.dumps([expires_at, caller.tenant, rater, completion_ids, caller.key_id, since])
        payload = base64.urlsafe_b64encode(said).rstrip(b"=").decode()
        return f"{PREFIX}{payload}.{self._signer.sign(_PURPOSE, payload)}", expires_at

    def check(self, token: str, now: float) -> Grant:
        """What a token allows. Raises Unauthorized when it is not ours, or no longer good."""
        payload, _, signature = token.removeprefix(PREFIX).partition(".")
        ours = token.startswith(PREFIX) and token.isascii()
        if not ours or not hmac.compare_digest(self._signer.sign(_PURPOSE, payload), signature):
            raise Unauthorized(
                "The feedback token is not one of this service; send the one that came with the answer.",
                param="token",
                code="invalid_feedback_token",
            )
        padded = payload + "=" * (-len(payload) % 4)
        said = orjson.loads(base64.urlsafe_b64decode(padded))
        expires_at, tenant, rater, completion_ids, key_id, since = said
        if now >= expires_at:
            raise Unauthorized(
                f"The feedback token has expired; it is good for {GOOD_SECONDS // 3600} hours.",
                param="token",
                code="feedback_token_expired",
            )
        if not self._is_trusted(key_id):
            raise Unauthorized(
                "The API key that asked for this answer was revoked, and the feedback token ended with it."
                if key_id
                else "The feedback token is of a time when this service had no API keys.",
                param="token",
                code="feedback_token_revoked",
            )
        return Grant(expires_at, tenant, rater, frozenset(completion_ids), key_id, since)
