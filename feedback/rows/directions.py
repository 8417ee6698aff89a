"""Directions of metrics by their names: harm has names that everybody knows, and so has good.

A name is read word by word (`Toxicity-Score`, `errorRate`, `latency_ms`). What is on neither list, and what
has a word of both (`complaint_resolution`), says nothing: whoever sends such a metric says its direction.
"""

import re
from functools import lru_cache

from feedback.core.events import Direction


def words(text: str) -> frozenset[str]:
    """The words of a list, for `has_word`."""
    return frozenset(text.split())


HARMS = words(
    """
    abandon abandoned abandonment abuse abusive bias biased bug burden churn churned complain complained
    complaint cost costly crash crashed cut danger dangerous defect delay delayed deviation difficulty dislike
    disliked distance downtime downvote downvoted duration effort error errored escalate escalated escalation
    expense fabricated fabrication fail failed failing failure false fault faulty flag flagged frustrated
    frustration fraud hallucinate hallucinated hallucination harm harmful hate hateful illegal inaccuracy
    inaccurate incorrect insult jailbreak jailbroken latency leak leakage leaked loss misinformation mistake
    offensive overrefusal penalty perplexity plagiarism price profanity racism racist refusal
    refuse refused regenerate regenerated regeneration reject rejected rejection reopen reopened repetition
    repetitive retried retry risk risky rude rudeness sexism sexist spam stereotype sycophancy sycophantic
    threat thumbsdown timeout toxic toxicity ttft unhelpful unsafe unsolved untrue verbosity violation
    violence violent vulgar wait waiting wrong
    """
)
"""Words of metrics of which less is better."""

GOODS = words(
    """
    accept acceptance accepted accuracy accurate answered clarity clear coherence coherent completeness
    completed compliance concise conciseness conversion converted convincing copied correct
    correctness creativity csat effectiveness empathy engagement engaging factual factuality faithful
    faithfulness f1 fluency followed goodness grounded groundedness happiness happy harmless harmlessness
    helpful helpfulness honest honesty informative kept liked like loyalty nps passed polite politeness
    precision preference preferred purchase purchased quality recall relevance relevancy relevant reliability
    reliable resolution resolved retention revenue reward robustness safe safety satisfaction satisfied
    solved success successful thumbsup trust trustworthiness truthful truthfulness upvote upvoted useful
    usefulness win winrate won
    """
)
"""Words of metrics of which more is better."""

SCALES = words("score rating grade mark star thumb thumbs feedback vote")
"""Words of metrics of which more is better where nothing but a plain word stands beside them."""

PLAIN = words(
    """
    a agent ai all annotator answer assistant average avg bot chat conversation count customer eval
    evaluation evaluator final general human in is judge level llm max mean median min model ms my number
    overall p50 p90 p95 p99 per percent percentage rate ratio response s sec second seconds step the total
    turn user users value was
    """
)
"""Words that say nothing of the direction."""

_TURNS = words(
    """
    anti avoid avoidance avoided change decrease delta difference drop few free gap improvement lack less low
    missing no non not poor prevented reduction un variance without
    """
)
_TIMES = words("day hour minute ms s sec second time to until")  # to something good, the less the better
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+[0-9]*|[0-9]+")

HOW = 'say which way is better: direction "higher" or "lower"'
"""What is right where a name says nothing."""


def has_word(name: str, of: frozenset[str]) -> bool:
    """Whether a word of a column's or a metric's name, or what it is the plural of, is one of some."""
    return any(_is(word, of) for word in words_of(name))


def words_of(name: str) -> list[str]:
    """The words of a name in small letters: `errorRate` has "error" and "rate"."""
    return [word.lower() for word in _WORD.findall(name)]


@lru_cache(maxsize=4096)
def direction_of(name: str) -> Direction | None:
    """Which way a metric is better by its name; None where the name does not tell."""
    harmful, good = has_word(name, HARMS), has_word(name, GOODS)
    if (harmful and good) or not _TURNS.isdisjoint(words_of(name)):
        return None
    if harmful:
        return "lower"
    if good:
        return None if has_word(name, _TIMES) else "higher"
    scaled = has_word(name, SCALES)
    return "higher" if scaled and all(_is(word, SCALES | PLAIN) for word in words_of(name)) else None


def _is(word: str, of: frozenset[str]) -> bool:
    """Whether a word, or what it is the plural of, is one of some."""
    if word in of:
        return True
    return word.endswith("s") and (word[:-1] in of or word[:-2] in of or f"{word[:-3]}y" in of)
