"""Columns that may judge an answer: what judges and is not understood is never passed over.

An answer without a judgement is imitated. So a column beside it is left out only when its name is known
to say
nothing of how good the answer is; a column of any other name might, and the row is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.rows.directions import has_word, words, words_of
from feedback.rows.said import Misfit, Row

WORDS = words(
    """
    acceptable accepted accuracy agreement annotation annotations appropriate approved bad best better
    choice chosen correct correctness critique dislike disliked dislikes disagree downvote downvotes eval
    evaluation feedback flagged good grade graded harmful harmless harmlessness hallucination helpful
    helpfulness incorrect judge judgement judgment label like liked likes margin metric overall passed
    points pref preference preferred quality rank ranked ranking rate rated rating rejected relevance reward
    safe safety satisfaction score scored sentiment star stars thumb thumbs thumbsdown thumbsup toxic
    toxicity unsafe upvote upvotes value verdict vote voted winner worse worst wrong
    """
)
"""Words of columns that say how good an answer is."""

_SILENT = words(
    """
    id idx index uuid hash guid number position source sources origin dataset subset split category
    categories topic topics subject task tasks type domain area field language lang locale country region
    model provider engine deployment created updated modified timestamp date datetime time at year month day
    user author rater session conversation conversations chat thread message messages turn turns episode
    request prompt prompts completion response answer question query instruction input output system history
    context document documents passage reference references tool tools function functions token tokens
    length size count num version revision license url link uri title name tag tags text texts body content
    temperature seed stop finish usage latency duration ms seconds metadata meta file path page row line
    format template persona role audience difficulty level object fingerprint tier service image images
    audio video email ip device app channel project environment parallel call calls
    """
)
"""Words of columns that do not. A column's name is silent when all its words are."""

_MESSAGE = words(
    """
    role content from value tool_calls function_call weight name tool_call_id refusal reasoning
    reasoning_content thinking audio type id timestamp created_at annotations additional_kwargs
    response_metadata
    """
)
"""What messages have besides a judgement."""

_TALKS = ("messages", "conversations", "history")

_FLIPS = words(
    """
    label labels winner preference preferred choice vote better better_response_id rank ranking feedback
    thumbs thumb liked verdict judgement judgment rating score reward stars value
    """
)


def judging(row: Row) -> list[str]:
    """The columns of a row whose names say that they judge, and that say something."""
    return [name for name, said in row.items() if not _is_empty(said) and has_word(str(name), WORDS)]


def check_unjudged(row: Row, known: frozenset[str] = frozenset()) -> None:
    """Refuse a row whose answer would be imitated where any column, or a column in it, might judge it.

    `known`: columns of a layout that do not.
    """
    for name, said in row.items():
        if _is_empty(said) or name in known:
            continue
        for path in _unknown(str(name), said):
            raise Misfit(not_understood([path]))
        if name in _TALKS and isinstance(said, list):
            _check_messages(str(name), said)


def _unknown(path: str, said: Any) -> Iterator[str]:
    """The paths of columns that are not known to be silent."""
    name = path.rpartition(".")[2]
    if has_word(name, WORDS) or not _is_silent(name):
        yield path
    elif isinstance(said, Mapping):
        for inner, value in said.items():
            if not _is_empty(value):
                yield from _unknown(f"{path}.{inner}", value)


def _check_messages(column: str, messages: list[Any]) -> None:
    for message in messages:
        for name, said in message.items() if isinstance(message, Mapping) else ():
            if name not in _MESSAGE and not _is_empty(said):
                raise Misfit(
                    f"column '{column}.{name}' is unknown and might be a judgement of a message; take it out "
                    "of the messages, or give it as a column beside them: label or rating"
                )


def _is_silent(name: str) -> bool:
    """Whether no word of a name can mean a judgement."""
    found = words_of(name)
    return bool(found) and all(word.isdigit() or has_word(word, _SILENT) for word in found)


def _is_empty(said: Any) -> bool:
    return said is None or (isinstance(said, str | list | dict | tuple) and len(said) == 0)


def in_the_way(row: Row, understood: set[str]) -> None:
    """Refuse a row with a second column that could turn its judgement around."""
    for name in sorted((row.keys() & _FLIPS) - understood):
        said = row[name]
        if _is_empty(said) or isinstance(said, list):
            continue
        raise Misfit(
            f"column {name!r} looks like another judgement and is not understood; leave it out with "
            f"--map {name}=ignore if the rest of the row is right"
        )


def not_understood(columns: list[str]) -> str:
    """What to do about columns that look like judgements."""
    if len(columns) > 1:
        names = " and ".join(map(repr, columns))
        return f"columns {names} look like judgements; leave all but one out with --map COLUMN=ignore"
    (name,) = columns
    looks = "looks like" if has_word(name.rpartition(".")[2], WORDS) else "is unknown and might be"
    return (
        f"column {name!r} {looks} a judgement that is not understood; say what it is with --map {name}=label "
        f"(a thumb) or --map {name}=rating and --scale LOWEST:HIGHEST, or leave it out with --map "
        f"{name}=ignore"
    )
