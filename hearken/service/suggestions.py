"""Questions that the chat page offers when nobody set any: such as the model was made for."""

TINY = ("I forgot my password.", "Where do I find my invoice?", "When are you open?")
"""Of the support desk's customers, whose language is all that the tiny model knows."""

OTHERS = (
    "What can I cook with rice and two eggs?",
    "Write a thank-you note to a neighbour.",
    "Explain how a rainbow comes about.",
)
"""Of an ordinary day, for any model that follows instructions."""


def suggestions(model: str | None) -> tuple[str, ...]:
    """For the model of the settings; None stands for the tiny one."""
    return TINY if model is None else OTHERS
