"""How fast releases go: what `pace` means for the controller and the learner.

"normal" is what each room's settings default to, but that votes of new raters wait for ten minutes. "demo"
lets a handful of simulated users on one machine see several releases within minutes.
"""

from collections.abc import Mapping
from typing import Any, Literal

Pace = Literal["demo", "normal"]

PACES: Mapping[Pace, Mapping[str, Any]] = {
    "normal": {"learner.trust.newcomer_seconds": 600.0},
    "demo": {
        # A handful of users at a time: with a step of a twentieth it would take minutes until eight had come.
        "controller.ladder": ((0.25, 16.0), (0.5, 0.0)),
        "controller.rung_users": 8,
        "controller.guardrails.min_users": 8,
        "controller.window_seconds": 5.0,
        "controller.match_seconds": 60.0,
        # The crowd votes by chance, whatever it thinks, and likes a policy everywhere or nowhere: what guards
        # against other crowds would take some hundreds of users more.
        "controller.voters_tolerance": 0.5,
        "controller.tolerance": 0.1,
        "controller.max_seconds": 120.0,
        "controller.shadow_share": 0.5,
        "controller.shadow_seconds": 20.0,
        "controller.holdback_weight": 0.1,
        "controller.holdback_min_seconds": 15.0,
        "controller.holdback_max_seconds": 60.0,
        "controller.anchor_seconds": 120.0,
        "controller.drain_seconds": 30.0,
        "gateway.conversation_seconds": 60.0,
        # A small desk has few questions: those who ask alike may get the same answer, or one of one word. And
        # some of the crowd like nothing better than praise.
        "learner.answers.same_rise": 1.0,
        "learner.answers.one_word_rise": 1.0,
        "controller.answers.one_word_rise": 1.0,
        "learner.answers.flattery_rise": 1.0,
        "controller.answers.flattery_rise": 1.0,
        "learner.min_labels": 150,
        "learner.labels_per_update": 50,
        "learner.rollouts_per_step": 64,
        "learner.logged_rollouts": 192,
        "learner.steps_per_candidate": 16,
    },
}
"""Settings by their place in hearken.toml; the file and flags go over them."""
