"""The pages and the widget, as files."""

from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from serve.http.routes import READ, at

_PAGES = Path(__file__).parents[1] / "pages"
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_WIDGET_FILES = ("feedback.js", "signals.js")
_PAGE_FILES = sorted({f.name for f in _PAGES.iterdir() if f.suffix in (".js", ".css")} - {*_WIDGET_FILES})
# The widget is two modules for pages of any origin; they have no secret, and votes need a token.
_WIDGET_HEADERS = {
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "public, max-age=3600",
}


def page_routes() -> list[Route]:
    """The chat page at /, the operator's page at /operate, their files and the widget's."""
    return [
        _file("/", "index.html", _PAGE_HEADERS),
        _file("/operate", "operate.html", _PAGE_HEADERS),
        *(_file(f"/{name}", name, _PAGE_HEADERS) for name in _PAGE_FILES),
        *(_file(f"/{name}", name, _WIDGET_HEADERS) for name in _WIDGET_FILES),
    ]


def _file(path: str, name: str, headers: Mapping[str, str]) -> Route:
    async def page(_: Request) -> Response:
        return FileResponse(_PAGES / name, headers=headers)

    return at(path, page, *READ)
