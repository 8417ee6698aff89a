"""What a webhook is: headers that prove who sent it and when, and a body that says what happened to a vote.

Both as Standard Webhooks has them (https://www.standardwebhooks.com). Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback.core.webhook_signatures import TOLERANCE_SECONDS, is_signed
from serve.http.bodies import parse_object
from serve.http.errors import BadRequest, Unauthorized
from serve.http.idempotency import HEADER_KEY, MAX_KEY_CHARS
from serve.schemas import fields

Json = dict[str, Any]

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
GIVEN, REMOVED = ("feedback.created", "feedback.updated"), "feedback.deleted"
"""The types of what is taken. A vote that was created and one that was updated are the same to a receiver."""


@dataclass(frozen=True, slots=True)
class Happened:
    """at: when, in Unix seconds. vote: as POST /v1/feedback takes it; for a removal, the one that is gone."""

    type: str
    at: float
    vote: Json

    @property
    def is_removal(self) -> bool:
        return self.type == REMOVED


def check_signed(headers: Mapping[str, str], body: bytes, secrets: Sequence[bytes], now: float) -> str:
    """The id of a webhook that one of the secrets signed, lately. now: Unix seconds. Raises Unauthorized."""
    event_id, timestamp, given = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    for name, value in ((ID, event_id), (TIMESTAMP, timestamp), (SIGNATURE, given)):
        if not value:
            raise _refused(f"The header {name} is missing; webhooks are signed as Standard Webhooks has it.")
    if not HEADER_KEY.fullmatch(event_id):
        raise _refused(f"{ID} must have 1 to {MAX_KEY_CHARS} visible ASCII characters, and no spaces.")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise _refused(f"{TIMESTAMP} must be Unix time in whole seconds.")
    if not is_signed(event_id, timestamp, body, given, secrets):
        raise _refused(
            f"No signature in {SIGNATURE} is good: 'v1,' and the base64 of the HMAC-SHA256 of id, timestamp "
            "and the body's bytes, with a dot between each two, by the secret of this sender."
        )
    if abs(int(timestamp) - now) > TOLERANCE_SECONDS:
        raise Unauthorized(
            f"{TIMESTAMP} is {int(timestamp) - now:+.0f} s from this service's clock, and at most "
            f"{TOLERANCE_SECONDS:g} are allowed: each try is signed anew with the time of that try.",
            param=TIMESTAMP,
            code="webhook_timestamp_out_of_range",
        )
    return event_id


def _refused(message: str) -> Unauthorized:
    return Unauthorized(message, code="invalid_webhook_signature")


def parse(body: bytes, now: float) -> Happened | None:
    """What a body says; None for an event of a type that is about no vote. now: Unix seconds.

    Raises BadRequest, also for what is still to happen: all that does until then would be older.
    """
    said = parse_object(body)
    kind = fields.name(said, "type", 128)
    if kind is None:
        fields.missing("type", f"send one of {', '.join((*GIVEN, REMOVED))}")
    if kind not in (*GIVEN, REMOVED):
        return None
    at = fields.moment(said, "timestamp")
    if at is None:
        fields.missing("timestamp", "send when it happened, like '2026-03-01T12:00:00Z'")
    if at > now + TOLERANCE_SECONDS:
        raise BadRequest(
            f"timestamp must be at most {TOLERANCE_SECONDS:g} s ahead of this service's clock.",
            param="timestamp",
        )
    vote = said.get("data")
    if not isinstance(vote, dict):
        raise BadRequest("data must be the vote, a JSON object.", param="data", code="invalid_type")
    if not vote.get("user"):
        fields.missing("data.user", "send the name by which the sender knows who voted")
    for name in ("idempotency_key", "token", "dry_run", "from_now_on"):
        if vote.get(name):
            raise BadRequest(f"data.{name} has no place in a webhook.", param=f"data.{name}")
    return Happened(kind, at, vote)
