"""POST /v1/imports in the OpenAPI document (3.1)."""

from typing import Any

from feedback.exchange.import_options import LAYOUT_NAMES
from serve.schemas.openapi_words import answered, parameter, refused
from serve.schemas.words import COUNT, FLAG, FREE, STRING, TEXT, integer, list_of, of

Schema = dict[str, Any]

_REPORT: Schema = {
    "file": STRING,
    "rows": COUNT,
    "imported": FREE | {"additionalProperties": COUNT, "description": "By kind."},
    "repeated": COUNT | {"description": "Said again what another row said."},
    "changed": COUNT | {"description": "Judged again what the same rater had judged: the newest counts."},
    "skipped": FREE
    | {
        "additionalProperties": of(count=COUNT, rows=list_of(integer(1))),
        "description": "Rows that cannot be used, by the reason, which names the column and what to do.",
    },
    "problem": TEXT | {"description": "Why the body could not be read to its end."},
}
IMPORT_SCHEMAS: Schema = {
    "Import": of(
        object={"const": "import"},
        dry_run=FLAG,
        written=COUNT | {"description": "Examples that this request wrote."},
        written_before=COUNT | {"description": "Those that the same body had written before."},
        **_REPORT,
    )
}

_ERRORS = {
    400: "An option or the body is wrong. Where no row can be used, `report` says why for each.",
    403: "The key has no scope `operate`, or it is another tenant's.",
    404: "This service cannot import over HTTP: its gateway knows no model.",
    413: "The body holds too much, unpacked.",
    415: "The content type or encoding is not understood.",
    503: "Not at the moment; the message says how far it came, and the same body goes on from there.",
}
_BODY = (
    "A file's bytes, as `hearken import` takes them, plain or with `Content-Encoding: gzip` or `zstd`. "
    "`application/gzip` and `application/zstd` are packed JSON lines."
)


def _several(name: str, form: str, description: str) -> Schema:
    return parameter("query", name, list_of(STRING), f"{form}: {description}; again for more.")


_PARAMETERS = [
    parameter("query", "layout", STRING | {"enum": list(LAYOUT_NAMES)}, "What a row looks like."),
    _several("scale", "[NAME=]LOWEST:HIGHEST", "the scale of numbers that do not say it"),
    _several("map", "COLUMN=FIELD", "what a column is"),
    _several("direction", "NAME=WHICH", "which way a score is better, higher or lower"),
    parameter("query", "dry_run", FLAG, "Read and report, write nothing."),
    parameter("query", "tenant", STRING, "The key's own tenant; any other is refused."),
]

IMPORT_PATHS: Schema = {
    "/v1/imports": {
        "post": {
            "operationId": "createImport",
            "summary": "Put judged examples into the log",
            "parameters": _PARAMETERS,
            "requestBody": {
                "required": True,
                "description": _BODY,
                "content": {
                    "application/x-ndjson": {"schema": STRING},
                    "application/json": {"schema": {"type": ["array", "object"]}},
                    "text/csv": {"schema": STRING},
                },
            },
            "responses": {
                "200": answered("What became of the rows. What is imported is durable.", "Import"),
                **refused(words=_ERRORS),
            },
        }
    }
}
