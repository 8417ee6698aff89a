"""Exceptions of handlers and of the framework as answers, in the shape of the route's API."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from serve.http.bodies import json_response
from serve.http.dialects import error_at, error_response
from serve.http.errors import ApiError, ClientGone, MethodNotAllowed, NotFound


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_at(request.url.path, error)


async def _on_client_gone(_: Request, error: Exception) -> Response:
    """Who leaves while sending is no failure of ours: a 499, without a traceback."""
    assert isinstance(error, ClientDisconnect)
    return error_response(ClientGone())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, which the framework reports."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = error_at(
            request.url.path,
            MethodNotAllowed(
                f"{request.method} is not allowed on {request.url.path}.", code="method_not_allowed"
            ),
        )
        answer.headers["allow"] = ", ".join(sorted(_methods(request)))
        return answer
    if error.status_code == 404:
        return error_at(
            request.url.path,
            NotFound(f"There is no {request.method} {request.url.path}.", code="unknown_url"),
        )
    return json_response(
        {"error": ApiError(str(error.detail), code="http_error").as_dict()["error"]}, error.status_code
    )


def _methods(request: Request) -> set[str]:
    """What may be done with the path of a request, whichever routes it has."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods
    return found


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_client_gone,
}
