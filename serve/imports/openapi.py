"""POST /v1/imports in the OpenAPI document (3.1)."""

from typing import Any

from feedback.exchange.import_options import LAYOUT_NAMES
from serve.schemas.responses import ref

Schema = dict[str, Any]

_COUNT: Schema = {"type": "integer", "minimum": 0}
_ROWS: Schema = {
    "type": "object",
    "required": ["count", "rows"],
    "properties": {"count": _COUNT, "rows": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
}
_REPORT: Schema = {
    "file": {"type": "string"},
    "rows": _COUNT,
    "imported": {"type": "object", "additionalProperties": _COUNT, "description": "By kind."},
    "repeated": {**_COUNT, "description": "Said again what another row said."},
    "changed": {**_COUNT, "description": "Judged again what the same rater had judged: the newest counts."},
    "skipped": {
        "type": "object",
        "additionalProperties": _ROWS,
        "description": "Rows that cannot be used, by the reason, which names the column and what to do.",
    },
    "problem": {"type": ["string", "null"], "description": "Why the body could not be read to its end."},
}
_IMPORT: Schema = {
    "type": "object",
    "required": ["object", "dry_run", "written", "written_before", *_REPORT],
    "properties": {
        "object": {"const": "import"},
        "dry_run": {"type": "boolean"},
        "written": {**_COUNT, "description": "Examples that this request wrote."},
        "written_before": {**_COUNT, "description": "Those that the same body had written before."},
        **_REPORT,
    },
}
IMPORT_SCHEMAS: Schema = {"Import": _IMPORT}

_ERRORS = {
    400: "An option or the body is wrong. Where no row can be used, `report` says why for each.",
    401: "No API key, or one that is not in force.",
    403: "The key has no scope `operate`, or it is another tenant's.",
    404: "This service cannot import over HTTP: its gateway knows no model.",
    413: "The body holds too much, unpacked.",
    415: "The content type or encoding is not understood.",
    421: "The Host header is no name of this service.",
    429: "A limit is used up; Retry-After says when it is not.",
    503: "Not at the moment; the message says how far it came, and the same body goes on from there.",
}
_BODY = (
    "A file's bytes, as `hearken import` takes them, plain or with `Content-Encoding: gzip` or `zstd`. "
    "`application/gzip` and `application/zstd` are packed JSON lines."
)


def _one(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _several(name: str, form: str, description: str) -> Schema:
    return _one(
        name, {"type": "array", "items": {"type": "string"}}, f"{form}: {description}; again for more."
    )


_PARAMETERS = [
    _one("layout", {"type": "string", "enum": list(LAYOUT_NAMES)}, "What a row looks like."),
    _several("scale", "[NAME=]LOWEST:HIGHEST", "the scale of numbers that do not say it"),
    _several("map", "COLUMN=FIELD", "what a column is"),
    _several("direction", "NAME=WHICH", "which way a score is better, higher or lower"),
    _one("dry_run", {"type": "boolean"}, "Read and report, write nothing."),
    _one("tenant", {"type": "string"}, "The key's own tenant; any other is refused."),
]


def _json(schema: str, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": ref(schema)}}}


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
                    "application/x-ndjson": {"schema": {"type": "string"}},
                    "application/json": {"schema": {"type": ["array", "object"]}},
                    "text/csv": {"schema": {"type": "string"}},
                },
            },
            "responses": {
                "200": _json("Import", "What became of the rows. What is imported is durable."),
                **{str(status): _json("Error", text) for status, text in _ERRORS.items()},
            },
        }
    }
}
