"""Comparisons and rankings of answers to the same messages."""

from collections.abc import Iterable
from typing import Any

from feedback.rows import texts
from feedback.rows.examples import Example, Message
from feedback.rows.said import Misfit

_MOST = 16  # answers in a ranking (`feedback.rows.examples`)


def compared(messages: tuple[Message, ...], first: str, second: str, value: float, **more: Any) -> Example:
    """A comparison of two answers. Raises Misfit when they are one."""
    if first == second:
        raise Misfit("both answers are the same")
    return Example("comparison", messages, (first, second), value, **more)


def shared_head(
    one: tuple[Message, ...], other: tuple[Message, ...], names: str = "chosen and rejected"
) -> tuple[tuple[Message, ...], str, str]:
    """Two conversations that differ in their last message: what they share, and both ends. Raises Misfit."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    if same == 0:
        raise Misfit(f"there is no prompt, and {names} do not begin with the same messages")
    if one[same:] == other[same:]:
        raise Misfit("both answers are the same")
    if len(one) != same + 1 or len(other) != same + 1:
        raise Misfit(
            f"{names} part before their last message; only the last answer may differ: cut both after "
            "the first "
            "answer that differs, if the judgement is of that"
        )
    return one[:same], texts.answer(one[same], names), texts.answer(other[same], names)


def ranked(messages: tuple[Message, ...], answers: Iterable[tuple[float, str]], **more: Any) -> Example:
    """A ranking of answers with their ranks, the lowest the best; equal ranks are ties.

    Of two answers it is a comparison. Raises Misfit.
    """
    placed = sorted(answers, key=lambda each: each[0])
    said = [answer for _, answer in placed]
    if len(set(said)) != len(said):
        raise Misfit("two of the ranked answers are the same")
    if not 2 <= len(said) <= _MOST:
        raise Misfit(f"a ranking is of 2 to {_MOST} answers, and it has {len(said)}")
    if len(said) == 2:
        return compared(messages, said[0], said[1], 1.0 if placed[0][0] < placed[1][0] else 0.5, **more)
    groups: list[list[int]] = []
    for i, (rank, _) in enumerate(placed):
        if i and rank == placed[i - 1][0]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return Example("ranking", messages, tuple(said), 0.5, groups=tuple(map(tuple, groups)), **more)
