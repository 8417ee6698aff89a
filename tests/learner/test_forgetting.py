"""The guards' figures: what they are, and how seldom noise alone is past a limit."""

import math
import re

import pytest
import torch

from deploy.answer_guards import rise
from deploy.guards import REFUSAL, GuardLimits
from learner.monitor.forgetting import clusters, highest_win_rate, perplexity_ratio
from learner.monitor.tool_calls import calls_rightly

Z = GuardLimits().z(1)
TRIES = 1000


def test_the_ratio_is_that_of_the_perplexities() -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 60, (40,), generator=draw)
    anchors = -2.0 * tokens + torch.randn(40, generator=draw)
    ours = anchors - 0.05 * tokens
    figure, best = perplexity_ratio(ours, anchors, tokens, Z)
    assert figure == pytest.approx(
        math.exp(-float(ours.sum()) / int(tokens.sum())) / math.exp(-float(anchors.sum()) / int(tokens.sum()))
    )
    assert best == pytest.approx(figure)  # all texts lost alike, so there is no doubt
    figure, best = perplexity_ratio(ours + 3 * torch.randn(40, generator=draw), anchors, tokens, Z)
    assert best < figure
    assert perplexity_ratio(anchors, anchors, tokens, Z) == (1.0, 1.0)


def refused_of_ratios(draw: torch.Generator, count: int) -> int:
    """How often texts of unequal length and loss refuse a candidate that is exactly at the limit."""
    refused = 0
    for _ in range(TRIES):
        tokens = torch.randint(4, 64, (count,), generator=draw)
        apart = 0.05 * tokens + tokens.sqrt() * torch.randn(count, generator=draw) * 0.4
        refused += perplexity_ratio(-2.0 * tokens - apart, -2.0 * tokens, tokens, Z)[1] > math.exp(0.05)
    return refused


def refused_of_rises(draw: torch.Generator, count: int, base: float, limit: float) -> int:
    refused = 0
    for _ in range(TRIES):
        anchors = torch.rand(count, generator=draw) < base
        ours = torch.rand(count, generator=draw) < base + limit
        refused += rise(ours.tolist(), anchors.tolist(), Z)[1] > limit
    return refused


def refused_of_win_rates(draw: torch.Generator, count: int, true: float, limit: float) -> int:
    refused = 0
    for _ in range(TRIES):
        wins = (torch.rand(count, generator=draw) < true).float()
        refused += highest_win_rate(wins, torch.full((count,), 0.5), Z)[1] < limit
    return refused


def test_noise_alone_refuses_a_candidate_at_the_limit_seldom() -> None:
    """Of 1,000 candidates that are just at a limit a twentieth may be refused; the tests of 16 texts, where
    intervals are roughest, come to 8% at most. One that lost nothing is hardly ever refused."""
    draw = torch.Generator().manual_seed(1)
    found = {
        "ratio, 16 texts": refused_of_ratios(draw, 16),
        "ratio, 128 texts": refused_of_ratios(draw, 128),
        "rise, 16 prompts": refused_of_rises(draw, 16, 0.05, 0.1),
        "rise, 128 prompts": refused_of_rises(draw, 128, 0.05, 0.1),
        "fall, 32 prompts": refused_of_rises(draw, 32, 0.8, 0.1),
        "win rate, 16 prompts": refused_of_win_rates(draw, 16, 0.4, 0.4),
        "win rate, 32 prompts": refused_of_win_rates(draw, 32, 0.4, 0.4),
    }
    assert {name: count for name, count in found.items() if count > 0.08 * TRIES} == {}, found
    assert refused_of_win_rates(draw, 32, 0.5, 0.4) <= 0.01 * TRIES


def test_what_is_clearly_lost_is_found() -> None:
    draw = torch.Generator().manual_seed(2)
    assert refused_of_win_rates(draw, 32, 0.15, 0.4) > 0.8 * TRIES
    assert rise([True] * 12 + [False] * 4, [False] * 16, Z)[1] > 0.1
    assert rise([False] * 16, [False] * 16, Z)[1] < 0


def test_prompts_that_are_alike_are_a_cluster() -> None:
    draw = torch.Generator().manual_seed(3)
    kinds = torch.arange(90) % 3
    middles = 8 * torch.randn(3, 20, generator=draw)
    rows = middles[kinds] + torch.randn(90, 20, generator=draw)
    found = clusters(rows, 3, 16)
    assert sorted(map(len, found)) == [30, 30, 30]
    assert all(len({int(kinds[row]) for row in group}) == 1 for group in found)
    assert clusters(rows, 3, 16) == found
    assert [sorted(group) for group in clusters(rows, 1, 16)] == [list(range(90))]


@pytest.mark.parametrize(("count", "most"), [(15, 0), (16, 1), (40, 2), (200, 4)])
def test_no_cluster_is_too_small_and_no_prompt_is_left_out(count: int, most: int) -> None:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(4)).exp() ** 3  # far outliers
    found = clusters(rows, 4, 16)
    assert len(found) <= most
    assert all(len(group) >= 16 for group in found)
    assert sorted(row for group in found for row in group) == list(range(count if most else 0))
    assert clusters(torch.ones(count, 5), 4, 16) == ([list(range(count))] if most else [])


TOOLS = '<tools>\n{"type": "function", "function": {"name": "find_parcel", "parameters": {}}}\n</tools>'


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ('<tool_call>\n{"name": "find_parcel", "arguments": {"id": 3}}\n</tool_call>', True),
        ('I look.\n<tool_call>{"name": "find_parcel", "arguments": {}}</tool_call>', True),
        ('[TOOL_CALLS][{"name": "find_parcel", "arguments": {"id": 3}}]', True),
        ('{"name": "find_parcel", "parameters": {"id": 3}}', True),
        ('<tool_call>\n{"name": "find_parcel", "arguments": {"id": 3}', False),  # cut off
        ('<tool_call>{"name": "find_parcel", "arguments": {"id": Infinity}}</tool_call>', False),
        ('<tool_call>{"name": "find_parcel", "arguments": "3"}</tool_call>', False),
        ('<tool_call>{"name": "parcel", "arguments": {}}</tool_call>', False),  # there is no such tool
        ('<tool_call>{"name": "find_parcel", "arguments": {}}</tool_call><tool_call>{}</tool_call>', False),
        ("Your parcel is on its way.", False),
        ("[1] says so", False),
        ("", False),
    ],
)
def test_a_call_is_right_when_it_can_be_carried_out(answer: str, is_right: bool) -> None:
    assert calls_rightly(answer, TOOLS) is is_right


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot do this.", True),
        ("We are unable to refund you.", True),
        ("I won't.", True),
        ("Sure, I can help.", False),
        ("You can't return it after 30 days.", False),
    ],
)
def test_a_refusal_is_found(answer: str, refuses: bool) -> None:
    assert (re.search(REFUSAL, answer, re.IGNORECASE) is not None) is refuses
