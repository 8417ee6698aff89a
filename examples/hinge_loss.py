"""A loss of your own, by its import path: the hinge loss of SLiC-HF (Zhao et al. 2023, arXiv:2305.10425), on
log ratios to live, as in Liu et al. 2023 (arXiv:2309.06657).

    PYTHONPATH=examples hearken up          with, in hearken.toml:

    [learner]
    optimiser = "hinge_loss:Hinge"

A pair teaches only until its better answer is ahead by 1 / beta nats, where beta is the price of KL; with DPO
it goes on for ever. All else is the learner's: which votes, KL limits, the way back, gate and checkpoints.
"""

from torch import Tensor

from learner.examples import Examples
from learner.preferences import DPO


class Hinge(DPO):
    """Learns from pairs, as DPO does."""

    def losses(self, log_ratios: Tensor, examples: Examples, kl_nats: float) -> Tensor:
        """The loss (N,) of N pairs. log_ratios: (N, 2) of policy to live, of each pair's answers."""
        ahead = self.kl_coefficient * (log_ratios[:, 0] - log_ratios[:, 1])
        first_is_better = 2 * examples.value - 1  # 1, or -1 for the second one, 0 for a tie
        return (1 - first_is_better * ahead).clamp(min=0) * first_is_better.abs()
