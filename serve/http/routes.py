"""A route of the API: a path, what answers it, and its methods."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

READ = ("GET", "HEAD")  # load balancers look with HEAD

Handler = Callable[[Request], Awaitable[Response]]


def at(path: str, handler: Handler, *methods: str) -> Route:
    """A route that has these methods and no others: Starlette's own takes HEAD wherever it takes GET."""
    route = Route(path, handler, methods=methods)
    route.methods = set(methods)
    return route
