"""Names of optimisers: a short one, or the import path of a class of one's own, "package.module:Class"."""

from feedback.core.classes import is_path

OPTIMISERS = {
    "ppo": "learner.policy.ppo:PPO",
    "dpo": "learner.preferences:DPO",
    "ipo": "learner.preferences:IPO",
    "kto": "learner.preferences:KTO",
}
"""Short name -> import path."""


def check_name(name: str) -> None:
    """Raises `ValueError` for what is neither a short name nor an import path. Imports nothing."""
    if name not in OPTIMISERS and not is_path(name):
        raise ValueError(
            f"optimiser is {name!r}; it must be {', '.join(OPTIMISERS)}, or the import path of a class of "
            "your own, package.module:Class"
        )
