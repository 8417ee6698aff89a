"""POST /v1/webhooks/{sender} in the OpenAPI document (3.1)."""

from typing import Any

from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas.openapi_words import operation, parameter, refused, with_body
from serve.schemas.words import STRING, of, optional, ref
from serve.webhooks.delivery import GIVEN, ID, REMOVED, SIGNATURE, TIMESTAMP

Schema = dict[str, Any]

_SOME = STRING | {"minLength": 1}

_BODY = of(
    type=_SOME
    | {"maxLength": 128, "description": f"{', '.join((*GIVEN, REMOVED))}; anything else is passed over."},
    timestamp={"type": ["string", "number"], "description": "When it happened: ISO 8601, Unix seconds."},
    data=ref("Vote") | {"description": "The vote, with its `user`; also of a removal."},
)
WEBHOOK_SCHEMAS: Schema = {
    "WebhookTaken": optional(
        of(
            object={"const": "feedback.webhook"},
            status={"enum": ["accepted", "retracted", "outdated", "unknown", "ignored"]},
        ),
        id=STRING | {"description": "The vote's id."},
        reason=STRING | {"description": "Why nothing was done."},
    )
}


def _header(name: str, pattern: str, description: str, **more: int) -> Schema:
    return parameter("header", name, _SOME | {"pattern": pattern, **more}, description, required=True)


_POST = operation(
    "takeWebhook",
    "Take a vote that another service pushes, signed as Standard Webhooks has it",
    "WebhookTaken",
    [404],
)
_ERRORS = {
    401: "No signature of this sender's is good, or it was made more than 5 minutes ago.",
    404: "There is no such sender, or no such completion.",
    409: "The same webhook is being answered.",
    422: "The id came with another body before.",
}

WEBHOOK_PATHS: Schema = {
    "/v1/webhooks/{sender}": {
        "parameters": [
            parameter(
                "path",
                "sender",
                STRING | {"pattern": "^[a-z0-9-]{1,32}$"},
                "A name in the file of gateway.webhook_senders.",
            ),
            _header(ID, "^[!-~]+$", "The event's; taken once.", maxLength=MAX_KEY_CHARS),
            _header(TIMESTAMP, "^[0-9]{1,12}$", "When it was sent, Unix seconds."),
            parameter(
                "header",
                SIGNATURE,
                _SOME,
                "v1,BASE64 of the HMAC-SHA256 of id.timestamp.body; several by spaces.",
                required=True,
            ),
        ],
        "post": with_body(_POST, _BODY)
        | {"responses": _POST["responses"] | refused(words=_ERRORS), "security": []},
    }
}
