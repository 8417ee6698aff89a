"""Content types: bodies are JSON and say so.

A web page may send a form, plain text, or a body without a type to any address without asking first. For JSON
its browser asks whether the page's origin may (CORS).
"""

from serve.http.errors import UnsupportedMediaType

JSON_LINES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)


def media_type(content_type: str) -> str:
    """The type in a content-type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON."""
    kind = media_type(content_type)
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def check_json(content_type: str) -> None:
    """Raises UnsupportedMediaType for everything but JSON, also for a body without a type."""
    if not is_json(content_type):
        raise unsupported(content_type, "send application/json")


def unsupported(content_type: str, right: str) -> UnsupportedMediaType:
    """The refusal of a body, with what would be right."""
    kind = media_type(content_type)
    said = f"The content type {kind[:80]!r} is not understood" if kind else "The body has no content type"
    return UnsupportedMediaType(f"{said}; {right}.", code="unsupported_media_type")
