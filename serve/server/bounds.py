"""How large a request's head may be, and how long a client may take: checked before the application."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on connections. Raises ValueError with what would be right."""

    header_bytes: Annotated[
        int, "longest request line and headers together; a longer head is cut with 431 before it is parsed"
    ] = 64 * 1024
    header_seconds: Annotated[
        float, "a new connection's headers must be complete after so long, or it is cut (408)"
    ] = 10.0
    body_seconds: Annotated[
        float, "each part of a body must come so soon after the one before, however long it is (408)"
    ] = 10.0
    write_seconds: Annotated[
        float,
        "a reader that takes less than 1 kB/s of what waits for it is cut after so long; after 1 s while "
        "requests of others wait for a place",
    ] = 30.0

    def __post_init__(self) -> None:
        if self.header_bytes < 1024:
            raise ValueError(f"header_bytes is {self.header_bytes}; clients' headers need 1024 or more")
        if min(self.header_seconds, self.body_seconds, self.write_seconds) <= 0:
            raise ValueError("header_seconds, body_seconds and write_seconds must be above 0")


NORMAL_BOUNDS = Bounds()
