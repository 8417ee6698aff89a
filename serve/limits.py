"""How much a key may use: the numbers, their names on the command line and in the key file."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Limits(BaseModel):
    """What one key may use. None: the service's own default holds; 0: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_minute: int | None = Field(default=None, ge=0)  # prompts and answers together
    user_requests_per_minute: int | None = Field(default=None, ge=0)  # of each end user of the key
    concurrent_requests: int | None = Field(default=None, ge=0)  # at the same time, in each gateway

    def or_else(self, other: "Limits") -> "Limits":
        """These, with `other`'s numbers where these have none."""
        return Limits(**(other.model_dump() | self.model_dump(exclude_none=True)))


UNSET = Limits()
NO_LIMITS = Limits(
    requests_per_minute=0, tokens_per_minute=0, user_requests_per_minute=0, concurrent_requests=0
)
# Far above what a product's users need, so that only a client that runs away meets them.
KEY_DEFAULTS = Limits(
    requests_per_minute=6_000,
    tokens_per_minute=3_000_000,
    user_requests_per_minute=120,
    concurrent_requests=512,
)


def parse_limits(texts: Sequence[str]) -> Limits:
    """Limits written as "NAME=N". Raises ValueError with what would be right."""
    names = ", ".join(Limits.model_fields)
    numbers: dict[str, str] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if name not in Limits.model_fields or not equals or name in numbers:
            twice = " a second time" if name in numbers else ""
            raise ValueError(f"limit {text!r}{twice}: write NAME=N once for each NAME of {names}")
        numbers[name] = number
    try:
        return Limits.model_validate(numbers)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(
            f"limit {wrong['loc'][0]}={wrong['input']}: the number must be 0 (no limit) or more"
        ) from error
