"""What one request gathers on its way: headers for its answer, and what must happen when it is over."""

from collections.abc import Callable

from starlette.types import Scope

_KEY = "hearken.visit"


class Visit:
    """One request, from its headers to the last byte of its answer, however it ends."""

    __slots__ = ("_at_end", "headers")

    def __init__(self, scope: Scope) -> None:
        scope[_KEY] = self
        self.headers: dict[str, str] = {}  # set on the answer, an error's too
        self._at_end: list[Callable[[], None]] = []

    def at_end(self, call: Callable[[], None]) -> None:
        """Call this when the request is over."""
        self._at_end.append(call)

    def end(self) -> None:
        """The request is over."""
        for call in self._at_end:
            call()


def visit_of(scope: Scope) -> Visit:
    """The visit of a request that came through `Observe`."""
    visit: Visit = scope[_KEY]
    return visit
