"""What operators ask for in the OpenAPI document (3.1): releases, learning, and actions."""

from typing import Any, get_args

from deploy.history.states import Action
from serve.http.idempotency import MAX_KEY_CHARS
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
    number,
    of,
    optional,
    or_null,
    record,
    ref,
    word,
)

Schema = dict[str, Any]

PAGE, MAX_PAGE = 20, 1000
WAIT_SECONDS, MAX_WAIT_SECONDS = 10, 60
WITH_VERSION = ("pin", "promote", "rollback")

ACTION: Schema = {
    "type": "object",
    "required": ["action", "reason"],
    "additionalProperties": False,
    "properties": {
        "action": word(*get_args(Action)),
        "version": TEXT
        | {
            "maxLength": 100,
            "description": "The version to pin, to promote or to roll back; of no other action.",
        },
        "reason": STRING
        | {
            "minLength": 1,
            "maxLength": 500,
            "pattern": r"^[^\x00-\x1f\x7f]+$",
            "description": "Why, for the record; in one line.",
        },
    },
}
"""What a body must be; what belongs together is checked beside it."""

PROMPT: Schema = record(["prompt"], prompt=STRING | {"minLength": 1, "maxLength": 4000}) | {
    "additionalProperties": False
}

_SECONDS: Schema = NUMBER | {"description": "Unix time in seconds."}

_DECISION = optional(
    of(
        number=integer(1),
        at=_SECONDS,
        outcome=STRING,
        version=TEXT | {"description": "The version concerned."},
        live=STRING | {"description": "The version that is live after it."},
        stage=word("idle", "canary", "holdback"),
        sentence=STRING,
        who=TEXT | {"description": "The operator: a key's name, or a user of the machine."},
        reason=TEXT,
    ),
    numbers=FREE,
    action=TEXT | {"description": "What an operator asked for; null where nobody did."},
)

_ESTIMATE = or_null(of(value=NUMBER, low=NUMBER, high=NUMBER, users=INTEGER)) | {
    "description": "A mean over users with the interval that holds at every look; null where nobody said so.",
}
_OPINION = of(
    at=_SECONDS,
    version=STRING,
    against=STRING,
    outcome=TEXT | {"description": "What became of it; null while it is on trial."},
    preferred=_ESTIMATE | {"description": "Share of those who compared both."},
    thumbs=_ESTIMATE | {"description": "Share of thumbs up less that of the other."},
)
_SPAN = of(
    since=_SECONDS,
    until=or_null(NUMBER) | {"description": "Unix time in seconds; null while it lasts."},
    stage=word("idle", "canary", "holdback"),
    live=STRING,
    tried=TEXT | {"description": "The version on trial."},
    against=TEXT | {"description": "What an equal share of users gets to compare it with."},
    weight=NUMBER | {"description": "Either share of users."},
    ended=TEXT | {"description": "The outcome that it ended with; null while it lasts."},
)
_LEARNING = of(
    object={"const": "learning"},
    sentence=STRING | {"description": "How learning goes, with numbers."},
    to_do=list_of(STRING)
    | {"description": "What a person should do, the most urgent first; mostly nothing."},
    lately=STRING | {"description": "What changed within the last day, with numbers."},
    votes=of(
        count=INTEGER,
        since=_SECONDS,
        complete=FLAG | {"description": "False where there may be more."},
    ),
    lag=of(
        votes=INTEGER | {"description": "Votes that came after the learner's newest update."},
        since=or_null(NUMBER) | {"description": "Unix time in seconds of the first of these."},
        updated=or_null(NUMBER) | {"description": "Unix time in seconds of that update."},
    ),
    stages=list_of(_SPAN) | {"description": "Who served when, the newest last, as far as is kept."},
    opinions=list_of(_OPINION)
    | {"description": "What users said of each version against another, the newest last."},
    steps=FREE
    | {
        "description": "The learner's steps as `hearken report --json` has them; `complete` is false "
        "while this gateway has not read all of them."
    },
)

RELEASE_SCHEMAS: Schema = {
    "Decision": _DECISION,
    "Learning": _LEARNING,
    "Release": of(
        object={"const": "release"},
        state=FREE | {"description": "As `hearken status --json` prints it."},
        why=list_of(STRING) | {"description": "Why nothing more has happened, and what has to."},
        told_at=or_null(NUMBER)
        | {
            "description": "Unix time in seconds when the controller told why, evidence and guardrails; "
            "null where none has for 15 seconds.",
        },
        history=of(
            object={"const": "list"},
            data=list_of(ref("Decision")),
            has_more=FLAG | {"description": "Whether there are older ones."},
        ),
    ),
    "ReleaseAnswers": of(
        object={"const": "release.answers"},
        answers=list_of(
            of(
                name=word("base", "live", "canary"),
                version=STRING,
                text=TEXT,
                ended=FLAG | {"description": "False where the limit cut it off."},
                error=TEXT | {"description": "Why there is no text; null where there is."},
            )
        ),
    ),
    "ReleaseAction": of(
        object={"const": "release.action"},
        id=STRING,
        action=STRING,
        version=TEXT,
        status=word("asked", "decided", "done"),
        decision={"anyOf": [ref("Decision"), NULL]},
        waits_for=TEXT | {"description": "What is missing; null when it is done."},
    ),
}

_ERRORS = {
    403: "The key has no scope `operate`, or there are no keys and the request is not from the same machine.",
    503: "The log is away; Retry-After says when to try again.",
}
_WATCHED = {503: "The log is away, or 32 watch this gateway already; Retry-After says when to try again."}
_CONFLICTS = {
    409: "It was not done; the message says why.",
    422: "The idempotency key was used for another action.",
}

_ASK: Schema = {
    "operationId": "createReleaseAction",
    "summary": "Ask the release controller for something",
    "parameters": [
        parameter(
            "query",
            "wait",
            number(0, MAX_WAIT_SECONDS) | {"default": WAIT_SECONDS},
            "Seconds to wait until it is decided and all gateways serve by it.",
        ),
        parameter(
            "header",
            "Idempotency-Key",
            STRING | {"minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]+$"},
        ),
    ],
    "responses": {
        "200": answered("It is done, and gateways serve by it.", "ReleaseAction"),
        "202": answered("It is durable; `waits_for` says what is missing.", "ReleaseAction"),
        **refused(words=_ERRORS | _CONFLICTS),
    },
}

_TRY: Schema = {
    "operationId": "createReleaseAnswers",
    "summary": "One prompt, answered by base, live and canary; nothing is logged",
    "responses": {"200": answered("The answers.", "ReleaseAnswers"), **refused(words=_ERRORS)},
}

RELEASE_PATHS: Schema = {
    "/v1/releases": {
        "get": {
            "operationId": "retrieveRelease",
            "summary": "Where releases stand, why, and what was decided",
            "parameters": [
                parameter(
                    "query",
                    "limit",
                    integer(1, MAX_PAGE) | {"default": PAGE},
                    "How many decisions, the newest.",
                ),
                parameter("query", "before", integer(1, 2**53), "Older ones: those with a number below."),
            ],
            "responses": {
                "200": answered("Decisions with the newest last.", "Release"),
                **refused(words=_ERRORS),
            },
        }
    },
    "/v1/releases/stream": {
        "get": {
            "operationId": "watchReleases",
            "summary": "Where releases stand and how learning goes, as server-sent events",
            "responses": {
                "200": {
                    "description": "An event a second is a `Release` with the decisions that this stream has "
                    "not told yet, and one every ten seconds a `Learning`. After ten minutes, and when the "
                    "gateway stops, it ends with [DONE].",
                    "content": {"text/event-stream": {}},
                },
                **refused(words=_ERRORS | _WATCHED, but=(400, 413, 415)),
            },
        }
    },
    "/v1/learning": {
        "get": {
            "operationId": "retrieveLearning",
            "summary": "How learning goes: in a sentence, and as numbers over time",
            "responses": {
                "200": answered("Times are Unix seconds.", "Learning"),
                **refused(words=_ERRORS, but=(400, 413, 415)),
            },
        }
    },
    "/v1/releases/answers": {"post": with_body(_TRY, PROMPT)},
    "/v1/releases/actions": {"post": with_body(_ASK, ACTION)},
}
