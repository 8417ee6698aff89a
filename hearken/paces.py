"""How fast releases go: what `--pace` means for the controller and the learner.

"normal" is what each room's settings default to, but that votes of new raters wait for ten minutes. "demo"
lets a handful of simulated users on one machine see several releases within minutes.
"""

from typing import Any, Literal

Pace = Literal["demo", "normal"]


def controller_pace(pace: Pace) -> dict[str, Any]:
    """The controller's settings that depend on the pace."""
    if pace == "normal":
        return {}
    return {
        "ladder": ((0.05, 6.0), (0.25, 10.0), (0.5, 0.0)),
        "window_seconds": 5.0,
        "max_seconds": 120.0,
        "holdback_weight": 0.1,
        "holdback_min_seconds": 15.0,
        "holdback_max_seconds": 60.0,
        "drain_seconds": 30.0,
    }


def learner_pace(pace: Pace) -> dict[str, Any]:
    """The learner's settings that depend on the pace."""
    from learner.trust import TrustRules

    if pace == "normal":
        return {"trust": TrustRules(newcomer_seconds=600.0)}
    return {
        "min_labels": 150,
        "labels_per_update": 50,
        "rollouts_per_step": 64,
        "steps_per_candidate": 16,
    }
