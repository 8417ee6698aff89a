"""What the controller that leads tells of the running release, in the shared store, for gateways to show.

It counts the evidence anyway. A gateway that counted it as well would hold up the tokens that it streams.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from feedback.shared import SharedStore, SharedUnavailable

KEY = "release/notice"

NOTICE_SECONDS = 15.0
"""How long a notice counts after it was written."""


class Notice(BaseModel):
    """Where the release stands. at: Unix time in seconds; number: of the newest decision; why: sentences;
    evidence: as `Running.told` has it, None where nothing is compared; guardrails: name -> what became of it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    at: float
    number: int
    why: list[str]
    evidence: dict[str, Any] | None = None
    guardrails: dict[str, str] = {}


def read_notice(shared: SharedStore) -> Notice | None:
    """The newest notice; None when no controller has told for `NOTICE_SECONDS`, or the store is away."""
    try:
        found = shared.get(KEY)
        return None if found is None else Notice.model_validate_json(found)
    except (SharedUnavailable, ValidationError):
        return None
