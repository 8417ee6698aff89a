"""The feedback routes in the OpenAPI document (3.1): what may be sent, and what is answered.

What JSON Schema cannot say (a rating lies on its own scale, a time is not long ago) is in the descriptions.
"""

from typing import Any

from serve.generation.requests import MAX_USER_CHARS
from serve.http.idempotency import MAX_KEY_CHARS
from serve.schemas.fields import MAX_ID_CHARS
from serve.schemas.openapi_words import answered, parameter, refused, with_body
from serve.schemas.words import (
    FLAG,
    FREE,
    INTEGER,
    NULL,
    STRING,
    TEXT,
    integer,
    list_of,
    of,
    optional,
    or_null,
    ref,
)
from serve.votes.bodies import MAX_ITEMS
from serve.votes.common import closed, common_fields, text_of
from serve.votes.kinds import DIRECTION, FORMS
from serve.votes.receipt_api import MAX_PAGE
from serve.votes.targets import Shape

Schema = dict[str, Any]


def _described(kind: str, shape: Shape) -> list[Schema]:
    """A shape of a kind of vote, once for each way to name what it is about."""
    common = {name: field.schema for name, field in common_fields(kind).items()}
    elsewise: Schema = {name: NULL for way in shape.about for name in way}
    return [
        closed(
            ["kind", *shape.needed, *list(way)[:1]],
            {"kind": {"const": kind}, **shape.fields, **elsewise, **way, **common},
        )
        for way in shape.about or ({},)
    ]


VOTE: Schema = {
    "anyOf": [
        each for kind, form in FORMS.items() for shape in form.shapes for each in _described(kind, shape)
    ]
}
_ABOUT = or_null(FREE)
_STATUS = INTEGER | {"description": "What the vote by itself would have been answered with."}

FEEDBACK_SCHEMAS: Schema = {
    "Vote": VOTE,
    "VoteReasons": of(object={"const": "feedback.reasons"}, down=list_of(STRING), up=list_of(STRING)),
    "VoteAccepted": optional(of(id=STRING, status={"const": "accepted"}), remembered={"const": True}),
    "VoteBatch": of(
        object={"const": "feedback.batch"},
        accepted=INTEGER,
        rejected=INTEGER,
        results=list_of(optional(of(index=INTEGER, status=_STATUS), id=STRING, error=FREE)),
    ),
    "VoteReceipt": optional(
        of(
            id=STRING,
            object={"const": "feedback.receipt"},
            kind=STRING,
            status=STRING,
            sentence=STRING,
            policy=_ABOUT,
            targets=list_of(FREE),
            updates=list_of(FREE),
            policies=list_of(FREE),
        ),
        reason=TEXT,
        comment=_ABOUT | {"description": "What became of the vote's words."},
    ),
    "VotePage": optional(of(object={"const": "list"}, data=list_of(FREE), has_more=FLAG), last_id=TEXT),
}

_BATCH: Schema = {
    "type": "array",
    "minItems": 1,
    "description": f"Up to {MAX_ITEMS} votes; each is answered for itself.",
}
_TENSORZERO = closed(
    ["metric_name", "value"],
    {
        "metric_name": text_of(64),
        "inference_id": STRING | {"maxLength": MAX_ID_CHARS},
        "episode_id": STRING | {"maxLength": MAX_ID_CHARS},
        "value": {"type": ["string", "number", "boolean"]},
        "tags": FREE | {"additionalProperties": STRING},
        "dryrun": FLAG,
        "direction": DIRECTION,
    },
)
_ERRORS = {
    400: "A field is wrong.",
    401: "No key or token that is good.",
    403: "The key or token is not good for this.",
    503: "The log cannot be used now.",
}
_TAKING = _ERRORS | {
    404: "No such completion.",
    409: "The same request is being answered.",
    422: "The idempotency key was used with another body.",
}


def _takes(name: str, summary: str, answers: Schema, body: Schema, **errors: str) -> Schema:
    """A POST of votes. errors: words of its own, by status, as _413."""
    words = _TAKING | {int(status[1:]): text for status, text in errors.items()}
    made = {"operationId": name, "summary": summary, "responses": answers | refused(words=words)}
    return with_body(made, body)


def _tells(name: str, summary: str, good: Schema, missing: str, *parameters: Schema) -> Schema:
    """An operation without a body."""
    errors = refused(words=_ERRORS | {404: missing}, but=(413, 415))
    made: Schema = {"operationId": name, "summary": summary, "responses": {"200": good} | errors}
    return made | ({"parameters": list(parameters)} if parameters else {})


_CREATE = _takes(
    "createFeedback",
    "Vote on answers, one vote or a batch",
    {
        "200": {"description": "A dry run: the vote is good, nothing was stored."},
        "202": answered("The vote is durable.", "VoteAccepted"),
        "207": answered("A batch: a result for each vote, in order.", "VoteBatch"),
    },
    {"anyOf": [ref("Vote"), _BATCH]},
    _413="The body, or the batch, is too large.",
    _415="Neither JSON nor NDJSON.",
)
_CREATE["parameters"] = [parameter("header", "Idempotency-Key", text_of(MAX_KEY_CHARS, pattern="^[!-~]+$"))]
_CREATE["requestBody"]["content"]["application/x-ndjson"] = {"schema": STRING}

_REASONS: Schema = {
    "operationId": "listReasons",
    "summary": "The reasons that a page may offer after a thumb down, and after a thumb up",
    "security": [],
    "responses": {"200": answered("The reasons.", "VoteReasons")},
}

FEEDBACK_PATHS: Schema = {
    "/v1/feedback": {"post": _CREATE},
    "/v1/feedback-reasons": {"get": _REASONS},
    "/v1/feedback/{feedback_id}": {
        "parameters": [parameter("path", "feedback_id", STRING | {"minLength": 1})],
        "get": _tells(
            "retrieveFeedback",
            "What became of a vote",
            answered("The receipt.", "VoteReceipt"),
            "No such vote.",
        ),
        "delete": _tells(
            "deleteFeedback",
            "Take a vote back",
            {"description": "It is taken back, durably."},
            "No such vote.",
            parameter(
                "query",
                "user",
                STRING | {"maxLength": MAX_USER_CHARS},
                "Who voted: needed for a vote that came by another key.",
            ),
        ),
    },
    "/feedback": {
        "post": _takes(
            "createTensorZeroFeedback",
            "Vote in the shape of TensorZero's API",
            {"200": {"description": "The vote is durable."}},
            _TENSORZERO,
        )
    },
    "/v1/policies/{version}/feedback": {
        "get": _tells(
            "listPolicyFeedback",
            "The votes that shaped a policy version",
            answered("A page of votes.", "VotePage"),
            "No such version.",
            parameter("path", "version", STRING | {"minLength": 1}),
            parameter("query", "limit", integer(1, MAX_PAGE)),
            parameter("query", "after", STRING),
        )
    },
}
