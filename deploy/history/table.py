"""The routing table, and the pure function that sends each user to an arm."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feedback.core.events import BASE

UserArm = Literal["live", "control", "canary", "anchor"]


class RoutingTable(BaseModel):
    """Who gets which policy. `epoch` grows by one with every table; the highest epoch is in force.

    canary and control take `weight` of all users each (so at most 0.5), live takes the rest. In a canary,
    control runs the live version, so that equal buckets are compared. In a holdback after a promotion,
    canary runs the new live version and control the previous one, and the same comparison goes on.

    anchor serves `anchor_weight` of all users, drawn first and by a salt of their own, so that the shares of
    the other arms among the rest stay equal (deploy/decide/anchor.py).
    """

    model_config = ConfigDict(frozen=True)

    epoch: int = 0
    salt: str = ""  # one per release: each release draws its users anew
    live: str = BASE
    control: str | None = None
    canary: str | None = None
    weight: float = Field(default=0.0, ge=0.0, le=0.5)
    anchor: str | None = None
    anchor_weight: float = Field(default=0.0, ge=0.0, le=0.5)
    anchor_salt: str = ""

    @model_validator(mode="after")
    def _buckets_have_versions(self) -> "RoutingTable":
        if self.weight > 0 and (self.canary is None or self.control is None):
            raise ValueError("a table with weight > 0 needs both a canary and a control version")
        return self

    @property
    def arms(self) -> tuple[UserArm, ...]:
        """The arms that any user is in."""
        trial: tuple[UserArm, ...] = ("control", "canary") if self.weight > 0 else ()
        anchor: tuple[UserArm, ...] = ("anchor",) if self.anchor is not None else ()
        return ("live", *trial, *anchor)

    def version(self, arm: UserArm) -> str:
        """The policy version that an arm serves."""
        versions = {
            "live": self.live,
            "control": self.control,
            "canary": self.canary,
            "anchor": self.anchor,
        }
        return versions[arm] or self.live

    @property
    def adapters(self) -> set[str]:
        """The versions that an engine must have loaded to serve this table (BASE is always there)."""
        versions = (self.live, self.control, self.canary, self.anchor)
        return {v for v in versions if v is not None and v != BASE}

    def without_anchor(self) -> "RoutingTable":
        """The same table with no users for an anchor."""
        return self.model_copy(update={"anchor": None, "anchor_weight": 0.0, "anchor_salt": ""})


def position(user: str, salt: str) -> float:
    """Where a user stands in [0, 1), the same on every gateway."""
    digest = hashlib.sha256(f"{salt}\0{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(user: str, table: RoutingTable) -> UserArm:
    """The arm of a user. Raising the weight only adds users to canary and control, it never moves one out."""
    if table.anchor is not None and position(user, table.anchor_salt) < table.anchor_weight:
        return "anchor"
    at = position(user, table.salt)
    if at < table.weight:
        return "canary"
    if at >= 1.0 - table.weight:
        return "control"
    return "live"
