"""Which web pages of other origins may call the API, and what of an answer their scripts may read."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from serve.feedback_tokens import HEADER

_RATE_LIMITS = tuple(
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
)
# x-hearken-arm and -policy-version are not among them: a page is where voters are.
_EXPOSED = ("x-request-id", "retry-after", "retry-after-ms", HEADER, *_RATE_LIMITS)


def allow_origins(app: Starlette, origins: Sequence[str]) -> None:
    """Let pages of these origins ("https://shop.example", or "*" for all) call the application.

    Without credentials in CORS's sense: who calls is told by a key or a token in the request, never by a
    cookie. Any request header may be sent, for OpenAI's clients send a dozen of their own.
    """
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=600,
    )
