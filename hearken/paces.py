"""How fast releases go: what `--pace` means for the controller and the learner."""

from typing import Literal

Pace = Literal["demo", "normal"]
