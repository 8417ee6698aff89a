"""Outcomes of releases, counted for the story of a run and the report of a demo, without numpy."""

from collections.abc import Iterable

from deploy.history.releases import Decision


def count_outcomes(decisions: Iterable[Decision]) -> dict[str, int]:
    """Promotions, and each way in which a candidate did not make it.

    A roll-back is anything that takes a version away from users who had it.
    """
    outcomes = [decision.outcome for decision in decisions]
    return {
        "promotions": outcomes.count("promoted"),
        "rollbacks": sum(outcomes.count(o) for o in ("harmful", "guardrail", "rolled_back")),
        "inconclusive": outcomes.count("inconclusive"),
        "refused": outcomes.count("refused"),
    }
