"""The feedback routes in the OpenAPI document (3.1): what may be sent, and what is answered.

What JSON Schema cannot say (a rating lies on its own scale, a time is not long ago) is in the descriptions.
"""

from typing import Any

from serve.generation.requests import MAX_USER_CHARS
from serve.schemas.fields import MAX_ID_CHARS
from serve.votes.batches import MAX_ITEMS
from serve.votes.common import COMMON, MAX_COMMENT_CHARS, PRINTABLE, text_of
from serve.votes.receipt_api import MAX_PAGE
from serve.votes.signals import REGENERATED
from serve.votes.targets import FIELDS, MAX_CHOICE
from serve.votes.tensorzero import TENSORZERO
from serve.votes.vote import MAX_RANKED, MAX_TEXT_CHARS

Schema = dict[str, Any]


_NULL: Schema = {"type": "null"}


def _object(required: list[str], properties: Schema, **more: Any) -> Schema:
    """An object of these fields only. What may be left out may also be null, as many clients send it."""
    return {
        "type": "object",
        "required": required,
        "properties": {
            name: schema if name in required or schema is _NULL else {"anyOf": [schema, _NULL]}
            for name, schema in properties.items()
        },
        "additionalProperties": False,
        **more,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_COMPLETION_ID = text_of(MAX_ID_CHARS, description="The id of one of our completions.")
_NAME = text_of(
    MAX_ID_CHARS, pattern=PRINTABLE, description="An id of your own, from the request's metadata."
)
_CHOICE: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_CHOICE}
_SPAN: Schema = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 2,
    "maxItems": 2,
    "description": "[lowest, highest]",
}
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
    others: Schema = {name: _NULL for _, names in ways for name in names}
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
    alone: Schema = {"regeneration_of": _NULL, "kept": _NULL}
    others: Schema = dict.fromkeys((*FIELDS[1:], "value", "shown"), _NULL)
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
            {"value": {"type": "number", "description": "On the scale, 1 to 5 by itself."}, "scale": _SPAN},
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
                "groups": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "array", "minItems": 1, "items": _ANSWER},
                    "description": f"The best first, ties in one group; 2 to {MAX_RANKED} answers in all.",
                }
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
_ACCEPTED: Schema = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {"id": {"type": "string"}, "status": {"const": "accepted"}, "remembered": {"const": True}},
}
_RESULT: Schema = {
    "type": "object",
    "required": ["index", "status"],
    "properties": {
        "index": {"type": "integer"},
        "status": {
            "type": "integer",
            "description": "What the vote by itself would have been answered with.",
        },
        "id": {"type": "string"},
        "error": {"type": "object"},
    },
}
_BATCH: Schema = {
    "type": "object",
    "required": ["object", "accepted", "rejected", "results"],
    "properties": {
        "object": {"const": "feedback.batch"},
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "results": {"type": "array", "items": _RESULT},
    },
}
_RECEIPT: Schema = {
    "type": "object",
    "required": ["id", "object", "kind", "status", "sentence", "policy", "targets", "updates", "policies"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "feedback.receipt"},
        "kind": {"type": "string"},
        "status": {"type": "string"},
        "reason": {"type": ["string", "null"]},
        "sentence": {"type": "string"},
        "policy": {"type": ["object", "null"]},
        "targets": {"type": "array", "items": {"type": "object"}},
        "updates": {"type": "array", "items": {"type": "object"}},
        "policies": {"type": "array", "items": {"type": "object"}},
        "comment": {"type": ["object", "null"], "description": "What became of the vote's words."},
    },
}
_PAGE: Schema = {
    "type": "object",
    "required": ["object", "data", "has_more"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"type": "object"}},
        "last_id": {"type": ["string", "null"]},
        "has_more": {"type": "boolean"},
    },
}

_WORDS: Schema = {"type": "array", "items": {"type": "string"}}
_REASONS: Schema = {
    "type": "object",
    "required": ["object", "down", "up"],
    "properties": {"object": {"const": "feedback.reasons"}, "down": _WORDS, "up": _WORDS},
}

FEEDBACK_SCHEMAS: Schema = {
    "Vote": VOTE,
    "VoteReasons": _REASONS,
    "VoteAccepted": _ACCEPTED,
    "VoteBatch": _BATCH,
    "VoteReceipt": _RECEIPT,
    "VotePage": _PAGE,
}


def _answer(description: str, schema: str | None = None) -> Schema:
    content = {"content": {"application/json": {"schema": _ref(schema)}}} if schema else {}
    return {"description": description, **content}


def _parameter(name: str, where: str, schema: Schema) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


_ERRORS = {
    "400": "A field is wrong.",
    "401": "No key or token that is good.",
    "403": "The key or token is not good for this.",
    "421": "The Host header is no name of this service.",
    "429": "Too many requests.",
    "503": "The log cannot be used now.",
}


def _answers(of: dict[str, Schema], **errors: str) -> dict[str, Schema]:
    known = _ERRORS | {status.strip("_"): text for status, text in errors.items()}
    return of | {status: _answer(text) for status, text in sorted(known.items())}


_ID = _parameter("feedback_id", "path", {"type": "string", "minLength": 1})

FEEDBACK_PATHS: Schema = {
    "/v1/feedback": {
        "post": {
            "operationId": "createFeedback",
            "summary": "Vote on answers, one vote or a batch",
            "parameters": [_parameter("Idempotency-Key", "header", text_of(255, pattern="^[!-~]+$"))],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "anyOf": [
                                _ref("Vote"),
                                {
                                    "type": "array",
                                    "minItems": 1,
                                    "description": f"Up to {MAX_ITEMS} votes; each is answered for itself.",
                                },
                            ]
                        }
                    },
                    "application/x-ndjson": {"schema": {"type": "string"}},
                },
            },
            "responses": _answers(
                {
                    "200": _answer("A dry run: the vote is good, nothing was stored."),
                    "202": _answer("The vote is durable.", "VoteAccepted"),
                    "207": _answer("A batch: a result for each vote, in order.", "VoteBatch"),
                },
                _404="No such completion.",
                _409="The same request is being answered.",
                _413="The body, or the batch, is too large.",
                _415="Neither JSON nor NDJSON.",
                _422="The idempotency key was used with another body.",
            ),
        }
    },
    "/v1/feedback-reasons": {
        "get": {
            "operationId": "listReasons",
            "summary": "The reasons that a page may offer after a thumb down, and after a thumb up",
            "security": [],
            "responses": {"200": _answer("The reasons.", "VoteReasons")},
        }
    },
    "/v1/feedback/{feedback_id}": {
        "parameters": [_ID],
        "get": {
            "operationId": "retrieveFeedback",
            "summary": "What became of a vote",
            "responses": _answers({"200": _answer("The receipt.", "VoteReceipt")}, _404="No such vote."),
        },
        "delete": {
            "operationId": "deleteFeedback",
            "summary": "Take a vote back",
            "parameters": [
                {
                    "in": "query",
                    "name": "user",
                    "description": "Who voted: needed for a vote that came by another key.",
                    "schema": {"type": "string", "maxLength": MAX_USER_CHARS},
                }
            ],
            "responses": _answers({"200": _answer("It is taken back, durably.")}, _404="No such vote."),
        },
    },
    "/feedback": {
        "post": {
            "operationId": "createTensorZeroFeedback",
            "summary": "Vote in the shape of TensorZero's API",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": TENSORZERO}},
            },
            "responses": _answers(
                {"200": _answer("The vote is durable.")},
                _404="No such completion.",
                _409="The same request is being answered.",
                _413="The body is too large.",
                _415="Not JSON.",
                _422="The idempotency key was used with another body.",
            ),
        }
    },
    "/v1/policies/{version}/feedback": {
        "get": {
            "operationId": "listPolicyFeedback",
            "summary": "The votes that shaped a policy version",
            "parameters": [
                _parameter("version", "path", {"type": "string", "minLength": 1}),
                _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
                _parameter("after", "query", {"type": "string"}),
            ],
            "responses": _answers({"200": _answer("A page of votes.", "VotePage")}, _404="No such version."),
        }
    },
}
