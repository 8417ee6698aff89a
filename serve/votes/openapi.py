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
    NUMBER,
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
from serve.votes.common import COMMON, MAX_COMMENT_CHARS, PRINTABLE, text_of
from serve.votes.receipt_api import MAX_PAGE
from serve.votes.signals import REGENERATED
from serve.votes.targets import FIELDS, MAX_CHOICE
from serve.votes.vote import MAX_RANKED, MAX_TEXT_CHARS

Schema = dict[str, Any]


def _object(required: list[str], properties: Schema, **more: Any) -> Schema:
    """An object of these fields only. What may be left out may also be null, as many clients send it."""
    return {
        "type": "object",
        "required": required,
        "properties": {
            name: schema if name in required or schema is NULL else {"anyOf": [schema, NULL]}
            for name, schema in properties.items()
        },
        "additionalProperties": False,
        **more,
    }


_COMPLETION_ID = text_of(MAX_ID_CHARS, description="The id of one of our completions.")
_NAME = text_of(
    MAX_ID_CHARS, pattern=PRINTABLE, description="An id of your own, from the request's metadata."
)
_CHOICE = integer(0, MAX_CHOICE)
_SPAN = list_of(NUMBER) | {"minItems": 2, "maxItems": 2, "description": "[lowest, highest]"}
_DIRECTION: Schema = {
    "enum": ["higher", "lower"],
    "description": "Which way is better. Needed unless the name tells, as latency (lower) and accuracy do.",
}
_BY_ID = (["completion_id"], {"completion_id": _COMPLETION_ID, "choice": _CHOICE})
_BY_NAME = (["external_id"], {"external_id": _NAME, "choice": _CHOICE})
_BY_EPISODE = (["episode_id"], {"episode_id": _NAME})
_ANSWER: Schema = {
    "anyOf": [_COMPLETION_ID, *(_object(needed, fields) for needed, fields in (_BY_ID, _BY_NAME))]
}


def _kind(word: str, required: list[str], fields: Schema, *, whole: bool = True) -> list[Schema]:
    """A kind of vote about one thing, once for each way to name it."""
    ways = [_BY_ID, _BY_NAME, *([_BY_EPISODE] if whole else [])]
    others: Schema = {name: NULL for _, names in ways for name in names}
    return [_vote(word, [*required, *needed], fields | others | names) for needed, names in ways]


def _vote(word: str, required: list[str], fields: Schema) -> Schema:
    common = {name: field.schema for name, field in COMMON.items() if (word, name) != ("comment", "comment")}
    return _object(["kind", *required], {"kind": {"const": word}, **fields, **common})


def _signals() -> list[Schema]:
    """The ways to tell what somebody did."""
    name = text_of(64, pattern=PRINTABLE, description="What happened, as copied, regenerated or dwell.")
    happened: Schema = {
        "name": name,
        "value": {
            "type": ["boolean", "number"],
            "description": "true (when absent) or false: whether it happened; or how much, as seconds.",
        },
        "shown": {"const": True},
    }
    unseen: Schema = {
        "name": name,
        "value": {"enum": [False, 0]},
        "shown": {"const": False, "description": "It was not shown: nothing follows from that."},
    }
    both: Schema = {
        "name": {"const": REGENERATED},
        "completion_id": _COMPLETION_ID,
        "regeneration_of": _COMPLETION_ID
        | {"description": "The answer that completion_id's was to replace."},
        "kept": {"enum": ["new", "old"], "description": "Which of both the person went on with."},
    }
    alone: Schema = {"regeneration_of": NULL, "kept": NULL}
    others: Schema = dict.fromkeys((*FIELDS[1:], "value", "shown"), NULL)
    return [
        *_kind("signal", ["name"], happened | alone),
        *_kind("signal", ["name", "shown"], unseen | alone),
        _vote("signal", ["name", "completion_id", "regeneration_of"], both | others),
    ]


VOTE: Schema = {
    "anyOf": [
        *_kind("thumbs", ["value"], {"value": {"enum": ["up", "down", True, False, 1, 0]}}),
        *_kind(
            "rating",
            ["value"],
            {"value": NUMBER | {"description": "On the scale, 1 to 5 by itself."}, "scale": _SPAN},
        ),
        _vote(
            "comparison",
            ["a", "b", "preferred"],
            {
                "a": _COMPLETION_ID,
                "b": _COMPLETION_ID,
                "preferred": {"enum": ["a", "b", "tie", "both_bad"]},
                "presented": {"enum": [["a", "b"], ["b", "a"]]},
            },
        ),
        _vote(
            "ranking",
            ["groups"],
            {
                "groups": list_of(list_of(_ANSWER, at_least=1), at_least=1)
                | {"description": f"The best first, ties in one group; 2 to {MAX_RANKED} answers in all."}
            },
        ),
        *_kind("correction", ["text"], {"text": text_of(MAX_TEXT_CHARS)}, whole=False),
        *_kind("comment", ["text"], {"text": text_of(MAX_COMMENT_CHARS)}),
        *_kind(
            "metric",
            ["name", "value"],
            {
                "name": text_of(64, pattern=PRINTABLE),
                "value": {"type": ["number", "boolean"]},
                "range": _SPAN,
                "direction": _DIRECTION,
            },
        ),
        *_signals(),
    ]
}
_ABOUT = or_null(FREE)
_STATUS = INTEGER | {"description": "What the vote by itself would have been answered with."}

FEEDBACK_SCHEMAS: Schema = {
    "Vote": VOTE,
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
_TENSORZERO = _object(
    ["metric_name", "value"],
    {
        "metric_name": text_of(64),
        "inference_id": STRING | {"maxLength": MAX_ID_CHARS},
        "episode_id": STRING | {"maxLength": MAX_ID_CHARS},
        "value": {"type": ["string", "number", "boolean"]},
        "tags": FREE | {"additionalProperties": STRING},
        "dryrun": FLAG,
        "direction": _DIRECTION,
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

FEEDBACK_PATHS: Schema = {
    "/v1/feedback": {"post": _CREATE},
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
