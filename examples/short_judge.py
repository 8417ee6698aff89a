"""A judge of your own: of two answers that say as much it prefers the shorter one.

    PYTHONPATH=examples hearken judge --data DATA --judge short_judge:Shorter --name brevity

It votes on the pairs of answers in the log, and its votes weigh as much as people agree with them. Each pair
is judged twice, the second time with the answers in the other order.
"""

import math

from hearken.ai_judge import CannotJudge, Messages, PairJudge


class Shorter(PairJudge):
    """Judges by length alone; a judge of more worth asks a model, or a rule of the product."""

    def prefers(self, messages: Messages, first: str, second: str) -> float:
        """How likely `first` is the better answer, in [0, 1]."""
        if not first.strip() or not second.strip():
            raise CannotJudge("one of the answers is empty")
        return 1 / (1 + math.exp((len(first) - len(second)) / 100))
