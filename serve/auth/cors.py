"""Which web pages of other origins may call the API, and what of an answer their scripts may read.

None, unless their origin is listed. But votes with a feedback token are taken from every page: the token says
which answer and whose vote, and nothing that a browser adds by itself counts.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.auth.feedback_tokens import HEADER, presented

_RATE_LIMITS = tuple(
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
)
# x-hearken-arm and -policy-version are not among them: a page is where voters are.
_EXPOSED = ("x-request-id", "retry-after", "retry-after-ms", HEADER, *_RATE_LIMITS)
_MAX_AGE_SECONDS = 600

VOTES = "/v1/feedback"
_VOTERS_HEADERS = frozenset({"authorization", HEADER, "content-type", "idempotency-key"})
_PREFLIGHT = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": ", ".join(sorted(_VOTERS_HEADERS)),
    "access-control-max-age": str(_MAX_AGE_SECONDS),
    "vary": "Access-Control-Request-Headers",
}


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins ("https://shop.example", or "*" for all) call the application.

    Without credentials in CORS's sense: who calls is told by a key or a token in the request, never by a
    cookie. Any request header may be sent, for OpenAI's clients send a dozen of their own.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
            max_age=_MAX_AGE_SECONDS,
        )
    app.add_middleware(TokenVotes)


class TokenVotes:
    """ASGI middleware: pages of any origin may vote with a token, read its receipts, and take votes back.

    A browser asks before, and cannot say then whether what it will send is a token or a key. So the asked
    headers are allowed, and the answer to a request without a token cannot be read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(VOTES):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "origin" not in headers:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and _asks_for_a_vote(headers):
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)
        elif presented(headers) is not None:
            await self._app(scope, receive, _readable(send))
        else:
            await self._app(scope, receive, send)


def _asks_for_a_vote(headers: Headers) -> bool:
    """Whether a preflight is for a request that can have a token."""
    listed = headers.get("access-control-request-headers", "").lower().split(",")
    asked = {name.strip() for name in listed}
    return asked <= _VOTERS_HEADERS and bool(asked & {"authorization", HEADER})


def _readable(send: Send) -> Send:
    """A `send` whose answer pages of all origins can read."""

    async def readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = "*"
            headers["access-control-expose-headers"] = ", ".join(_EXPOSED)
        await send(message)

    return readable


def is_of_another_page(headers: Headers, listed: Sequence[str]) -> bool:
    """Whether a browser sent a request for a page that is neither ours nor of a listed origin."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if "*" in listed or (origin is not None and origin in listed):
        return False
    if site is not None:  # right behind a proxy that changes Host, too; but not sent to http:// addresses
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
