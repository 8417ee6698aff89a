"""GET /v1/releases, GET /v1/learning and POST /v1/releases/actions in the OpenAPI document (3.1)."""

from typing import Any, get_args

from deploy.history.states import Action
from serve.schemas.responses import ref

Schema = dict[str, Any]

PAGE, MAX_PAGE = 20, 1000
WAIT_SECONDS, MAX_WAIT_SECONDS = 10, 60
WITH_VERSION = ("pin", "promote", "rollback")

_TEXT: Schema = {"type": ["string", "null"]}

ACTION: Schema = {
    "type": "object",
    "required": ["action", "reason"],
    "additionalProperties": False,
    "properties": {
        "action": {"type": "string", "enum": list(get_args(Action))},
        "version": {
            "type": ["string", "null"],
            "maxLength": 100,
            "description": "The version to pin, to promote or to roll back; of no other action.",
        },
        "reason": {
            "type": "string",
            "minLength": 1,
            "maxLength": 500,
            "pattern": r"^[^\x00-\x1f\x7f]+$",
            "description": "Why, for the record; in one line.",
        },
    },
}
"""What a body must be; what belongs together is checked beside it."""

PROMPT: Schema = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {"prompt": {"type": "string", "minLength": 1, "maxLength": 4000}},
}

_DECISION: Schema = {
    "type": "object",
    "required": ["number", "at", "outcome", "version", "live", "stage", "sentence", "who", "reason"],
    "properties": {
        "number": {"type": "integer", "minimum": 1},
        "at": {"type": "number", "description": "Unix time in seconds."},
        "outcome": {"type": "string"},
        "version": {**_TEXT, "description": "The version concerned."},
        "live": {"type": "string", "description": "The version that is live after it."},
        "stage": {"type": "string", "enum": ["idle", "canary", "holdback"]},
        "sentence": {"type": "string"},
        "numbers": {"type": "object"},
        "action": {**_TEXT, "description": "What an operator asked for; null where nobody did."},
        "who": {**_TEXT, "description": "The operator: a key's name, or a user of the machine."},
        "reason": _TEXT,
    },
}

_ESTIMATE: Schema = {
    "type": ["object", "null"],
    "description": "A mean over users with the interval that holds at every look; null where nobody said so.",
    "required": ["value", "low", "high", "users"],
    "properties": {
        **{name: {"type": "number"} for name in ("value", "low", "high")},
        "users": {"type": "integer"},
    },
}

_LEARNING: Schema = {
    "type": "object",
    "required": ["object", "sentence", "to_do", "lately", "votes", "opinions", "steps"],
    "properties": {
        "object": {"const": "learning"},
        "sentence": {"type": "string", "description": "How learning goes, with numbers."},
        "to_do": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What a person should do, the most urgent first; mostly nothing.",
        },
        "lately": {"type": "string", "description": "What changed within the last day, with numbers."},
        "votes": {
            "type": "object",
            "required": ["count", "since", "complete"],
            "properties": {
                "count": {"type": "integer"},
                "since": {"type": "number", "description": "Unix time in seconds."},
                "complete": {"type": "boolean", "description": "False where there may be more."},
            },
        },
        "opinions": {
            "type": "array",
            "description": "What users said of each version against another, the newest last.",
            "items": {
                "type": "object",
                "required": ["at", "version", "against", "outcome", "preferred", "thumbs"],
                "properties": {
                    "at": {"type": "number", "description": "Unix time in seconds."},
                    "version": {"type": "string"},
                    "against": {"type": "string"},
                    "outcome": {**_TEXT, "description": "What became of it; null while it is on trial."},
                    "preferred": {**_ESTIMATE, "description": "Share of those who compared both."},
                    "thumbs": {**_ESTIMATE, "description": "Share of thumbs up less that of the other."},
                },
            },
        },
        "steps": {
            "type": "object",
            "description": "The learner's steps as `hearken report --json` has them; `complete` is false "
            "while this gateway has not read all of them.",
        },
    },
}

RELEASE_SCHEMAS: Schema = {
    "Decision": _DECISION,
    "Learning": _LEARNING,
    "Release": {
        "type": "object",
        "required": ["object", "state", "why", "told_at", "history"],
        "properties": {
            "object": {"const": "release"},
            "state": {"type": "object", "description": "As `hearken status --json` prints it."},
            "why": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Why nothing more has happened, and what has to.",
            },
            "told_at": {
                "type": ["number", "null"],
                "description": "Unix time in seconds when the controller told why, evidence and guardrails; "
                "null where none has for 15 seconds.",
            },
            "history": {
                "type": "object",
                "required": ["object", "data", "has_more"],
                "properties": {
                    "object": {"const": "list"},
                    "data": {"type": "array", "items": ref("Decision")},
                    "has_more": {"type": "boolean", "description": "Whether there are older ones."},
                },
            },
        },
    },
    "ReleaseAnswers": {
        "type": "object",
        "required": ["object", "answers"],
        "properties": {
            "object": {"const": "release.answers"},
            "answers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "version", "text", "ended", "error"],
                    "properties": {
                        "name": {"type": "string", "enum": ["base", "live", "canary"]},
                        "version": {"type": "string"},
                        "text": _TEXT,
                        "ended": {"type": "boolean", "description": "False where the limit cut it off."},
                        "error": {**_TEXT, "description": "Why there is no text; null where there is."},
                    },
                },
            },
        },
    },
    "ReleaseAction": {
        "type": "object",
        "required": ["object", "id", "action", "version", "status", "decision", "waits_for"],
        "properties": {
            "object": {"const": "release.action"},
            "id": {"type": "string"},
            "action": {"type": "string"},
            "version": _TEXT,
            "status": {"type": "string", "enum": ["asked", "decided", "done"]},
            "decision": {"anyOf": [ref("Decision"), {"type": "null"}]},
            "waits_for": {**_TEXT, "description": "What is missing; null when it is done."},
        },
    },
}

_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or one that is not in force.",
    403: "The key has no scope `operate`, or there are no keys and the request is not from the same machine.",
    413: "The body is too large.",
    415: "The body does not say that it is JSON.",
    421: "The Host header is no name of this service.",
    429: "A limit is used up; Retry-After says when it is not.",
    503: "The log is away; Retry-After says when to try again.",
}
_LOOKING = {status: text for status, text in _ERRORS.items() if status not in (400, 413, 415)}
_CONFLICTS = {
    409: "It was not done; the message says why.",
    422: "The idempotency key was used for another action.",
}


def _answer(schema: str, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": ref(schema)}}}


def _answers(of: Schema, errors: dict[int, str]) -> Schema:
    return of | {str(status): _answer("Error", text) for status, text in sorted(errors.items())}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


RELEASE_PATHS: Schema = {
    "/v1/releases": {
        "get": {
            "operationId": "retrieveRelease",
            "summary": "Where releases stand, why, and what was decided",
            "parameters": [
                _query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
                    "How many decisions, the newest.",
                ),
                _query(
                    "before",
                    {"type": "integer", "minimum": 1, "maximum": 2**53},
                    "Older ones: those with a number below.",
                ),
            ],
            "responses": _answers({"200": _answer("Release", "Decisions with the newest last.")}, _ERRORS),
        }
    },
    "/v1/learning": {
        "get": {
            "operationId": "retrieveLearning",
            "summary": "How learning goes: in a sentence, and as numbers over time",
            "responses": _answers({"200": _answer("Learning", "Times are Unix seconds.")}, _LOOKING),
        }
    },
    "/v1/releases/answers": {
        "post": {
            "operationId": "createReleaseAnswers",
            "summary": "One prompt, answered by base, live and canary; nothing is logged",
            "requestBody": {"required": True, "content": {"application/json": {"schema": PROMPT}}},
            "responses": _answers({"200": _answer("ReleaseAnswers", "The answers.")}, _ERRORS),
        }
    },
    "/v1/releases/actions": {
        "post": {
            "operationId": "createReleaseAction",
            "summary": "Ask the release controller for something",
            "parameters": [
                _query(
                    "wait",
                    {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": WAIT_SECONDS},
                    "Seconds to wait until it is decided and all gateways serve by it.",
                ),
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                },
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ACTION}}},
            "responses": _answers(
                {
                    "200": _answer("ReleaseAction", "It is done, and gateways serve by it."),
                    "202": _answer("ReleaseAction", "It is durable; `waits_for` says what is missing."),
                },
                _ERRORS | _CONFLICTS,
            ),
        }
    },
}
