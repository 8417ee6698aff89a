"""The settings that follow from a model's width (its hidden size), where nobody says otherwise."""

MEASURED_WIDTH = 192
"""The hidden size at which `MEASURED_RATE` was found, on a model of 2 million parameters."""

MEASURED_RATE = 1e-3


def default_rank(width: int) -> int:
    """LoRA rank: 8 up to a width of 1,024, 16 above."""
    return 8 if width <= 1024 else 16


def default_learning_rate(width: int) -> float:
    """PPO's learning rate at its peak: as 1 / width, and never above what was measured.

    Adam's steps change what a layer puts out by the same amount when its rate falls as 1 / width (Yang et al.
    2022, arXiv:2203.03466, table 3). It gives 3.3e-4 at a width of 576 and 4.7e-5 at 4,096; other RL on LoRA
    adapters of models of billions takes 1e-5 to 1e-4.
    """
    return MEASURED_RATE * min(1.0, MEASURED_WIDTH / width)


def fine_tuning_rate(width: int) -> float:
    """Supervised fine-tuning's learning rate: as PPO's, but 2e-4 at least (Hu et al. 2021, appendix D)."""
    return max(2e-4, default_learning_rate(width))
