"""How much a key may use: the numbers, their names on the command line and in the key file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use. None: the service's own default holds; 0: no limit. Raises ValueError below 0."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # where the key file has one

    requests_per_minute: Annotated[int | None, "requests in a minute; 0: no limit"] = None
    tokens_per_minute: Annotated[
        int | None, "tokens of prompts and answers together in a minute; 0: no limit"
    ] = None
    user_requests_per_minute: Annotated[
        int | None, "requests of each end user of the key in a minute; 0: no limit"
    ] = None
    votes_per_minute: Annotated[int | None, "votes in a minute, each of a batch counted; 0: no limit"] = None
    concurrent_requests: Annotated[int | None, "requests at the same time, in each gateway; 0: no limit"] = (
        None
    )
    unprocessable_requests_per_minute: Annotated[
        int | None, "requests in a minute that engines cannot process though they answer others; 0: no limit"
    ] = None

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if number is not None and number < 0:
                raise ValueError(f"{name} is {number}; it must be 0 (no limit) or more")

    def or_else(self, other: "Limits") -> "Limits":
        """These, with `other`'s numbers where these have none; `other` itself where these have no number."""
        given = self.given()
        return Limits(**(asdict(other) | given)) if given else other

    def given(self) -> dict[str, int]:
        """The numbers that are set, by name."""
        return {name: number for name, number in asdict(self).items() if number is not None}


NAMES = tuple(field.name for field in fields(Limits))
UNSET = Limits()
NO_LIMITS = Limits(
    requests_per_minute=0,
    tokens_per_minute=0,
    user_requests_per_minute=0,
    votes_per_minute=0,
    concurrent_requests=0,
    unprocessable_requests_per_minute=0,
)
# Far above what a product's users need, so that only a client that runs away meets them.
KEY_DEFAULTS = Limits(
    requests_per_minute=6_000,
    tokens_per_minute=3_000_000,
    user_requests_per_minute=120,
    votes_per_minute=60_000,
    concurrent_requests=512,
    unprocessable_requests_per_minute=30,
)


def parse_limits(texts: Sequence[str]) -> Limits:
    """Limits written as "NAME=N". Raises ValueError with what would be right."""
    numbers: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in NAMES or name in numbers:
            twice = " a second time" if name in numbers else ""
            raise ValueError(f"limit {text!r}{twice}: write NAME=N once for each NAME of {', '.join(NAMES)}")
        if not number.isdecimal():
            raise ValueError(f"limit {text}: the number must be 0 (no limit) or more")
        numbers[name] = int(number)
    return Limits(**numbers)
