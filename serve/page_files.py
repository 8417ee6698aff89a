"""The pages that the gateway serves, and what their browsers are told of them."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse

Page = Callable[[], Awaitable[Response]]

_PAGES = Path(__file__).parent / "pages"
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_PAGE_FILES = (
    *("app.js", "api.js", "conversation.js", "copying.js", "dom.js", "key.js", "markdown.js", "theme.js"),
    *("preferences.js", "votes.js", "style.css"),
    *("operate.js", "decisions.js", "standing.js", "steering.js", "operate.css"),
)
_WIDGET_FILES = ("feedback.js", "signals.js")
# The widget is two modules for pages of any origin; they have no secret, and votes need a token.
_WIDGET_HEADERS = {
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "public, max-age=3600",
}


def _page(name: str, headers: Mapping[str, str] = _PAGE_HEADERS) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(_PAGES / name, headers=headers)

    return page


PAGES: dict[str, Page] = {
    "/": _page("index.html"),
    "/operate": _page("operate.html"),
    **{f"/{file}": _page(file) for file in _PAGE_FILES},
    **{f"/{file}": _page(file, _WIDGET_HEADERS) for file in _WIDGET_FILES},
}
"""By path."""
