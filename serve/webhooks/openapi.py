"""POST /v1/webhooks/{sender} in the OpenAPI document (3.1)."""

from typing import Any

from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas.openapi_words import answered, operation, with_body
from serve.schemas.responses import ref
from serve.webhooks.delivery import GIVEN, ID, REMOVED, SIGNATURE, TIMESTAMP

Schema = dict[str, Any]

_BODY: Schema = {
    "type": "object",
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": f"{', '.join((*GIVEN, REMOVED))}; anything else is passed over.",
        },
        "timestamp": {
            "type": ["string", "number"],
            "description": "When it happened: ISO 8601, Unix seconds.",
        },
        "data": ref("Vote") | {"description": "The vote, with its `user`; also of a removal."},
    },
}
WEBHOOK_SCHEMAS: Schema = {
    "WebhookTaken": {
        "type": "object",
        "required": ["object", "status"],
        "properties": {
            "object": {"const": "feedback.webhook"},
            "status": {"enum": ["accepted", "retracted", "outdated", "unknown", "ignored"]},
            "id": {"type": "string", "description": "The vote's id."},
            "reason": {"type": "string", "description": "Why nothing was done."},
        },
    }
}


def _header(name: str, schema: Schema, description: str) -> Schema:
    found = {"name": name, "in": "header", "required": True, "schema": schema}
    return found | {"description": description}


_TEXT: Schema = {"type": "string", "minLength": 1}

_POST = with_body(
    operation(
        "takeWebhook",
        "Take a vote that another service pushes, signed as Standard Webhooks has it",
        "WebhookTaken",
        [404],
    ),
    _BODY,
)
_ERRORS = {
    "401": "No signature of this sender's is good, or it was made more than 5 minutes ago.",
    "404": "There is no such sender, or no such completion.",
    "409": "The same webhook is being answered.",
    "422": "The id came with another body before.",
}

WEBHOOK_PATHS: Schema = {
    "/v1/webhooks/{sender}": {
        "parameters": [
            {
                "name": "sender",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
                "description": "A name in the file of gateway.webhook_senders.",
            },
            _header(
                ID, _TEXT | {"maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]+$"}, "The event's; taken once."
            ),
            _header(TIMESTAMP, _TEXT | {"pattern": "^[0-9]{1,12}$"}, "When it was sent, Unix seconds."),
            _header(
                SIGNATURE, _TEXT, "v1,BASE64 of the HMAC-SHA256 of id.timestamp.body; several by spaces."
            ),
        ],
        "post": {
            **_POST,
            "responses": _POST["responses"]
            | {status: answered(text, "Error") for status, text in _ERRORS.items()},
            "security": [],
        },
    }
}
