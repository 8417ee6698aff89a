"""A value with where it comes from, and many of them by their place in the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value, and who said it: "--port", "hearken.toml:12", "pace demo", "the model"."""

    value: Any
    origin: str


Layer = Mapping[str, Given]
"""Values by path ("learner.ppo.clip")."""
