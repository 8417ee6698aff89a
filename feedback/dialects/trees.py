"""Conversations that branch: PRISM, where people scored each turn's answers, and OpenAssistant's trees."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.examples import Example, Message
from feedback.rows.said import Misfit, Options, Row, Said

_SCALE = (1.0, 100.0)  # of PRISM's scores
_ROLES = {"prompter": "user", "assistant": "assistant"}

# ---- PRISM


def prism_conversation(row: Row, options: Options) -> Iterator[Said]:
    """A conversation of PRISM: in each turn one person scored the answers, and the chosen one went on."""
    turns: dict[int, list[Mapping[str, Any]]] = {}
    for message in values.list_of(row["conversation_history"]):
        turns.setdefault(int(message["turn"]), []).append(message)
    rater, said = str(row["user_id"]), ()  # type: tuple[str, tuple[Message, ...]]
    for number in sorted(turns):
        asked = [each for each in turns[number] if each["role"] == "user"]
        answers = [each for each in turns[number] if each["role"] == "model"]
        if len(asked) != 1:
            raise Misfit(f"column 'conversation_history' has {len(asked)} questions in turn {number}")
        said = (*said, {"role": "user", "content": texts.text(asked[0]["content"], "conversation_history")})
        if answers:
            try:
                yield _prism_turn(said, answers, rater, options)
            except Misfit as misfit:
                yield misfit
        chosen = [each for each in answers if each.get("if_chosen")]
        if len(chosen) != 1:
            return  # nobody knows on which answer the conversation went on
        said = (*said, {"role": "assistant", "content": chosen[0]["content"]})


def _prism_turn(
    messages: tuple[Message, ...], answers: list[Mapping[str, Any]], rater: str, options: Options
) -> Example:
    """The ranking by score, a chosen answer before others of its score; of one answer its rating."""
    best: dict[str, tuple[float, bool]] = {}  # text -> place, the lowest the best; models may say the same
    for each in answers:
        score = values.number_of(each["score"], "conversation_history.score")
        place = (-score, not each["if_chosen"])
        answer = texts.text(each["content"], "conversation_history.content")
        best[answer] = min(place, best.get(answer, place))
    if len(best) > 1:
        order = sorted(set(best.values()))
        ranks = [(float(order.index(place)), answer) for answer, place in best.items()]
        return pairs.ranked(messages, ranks, rater=rater)
    ((answer, (lowered, _)),) = best.items()
    share = values.share(-lowered, "conversation_history.score", options, _SCALE)
    return Example("rating", messages, (answer,), share, rater=rater)


def prism_utterance(row: Row, options: Options) -> Iterator[Said]:
    """One answer of PRISM with its score from 1 to 100; of a first turn, for others need what was said."""
    if int(row["turn"]) != 0:
        raise Misfit(
            "column 'turn' is not 0, and what was said before is in conversations.jsonl: import that file"
        )
    place = values.share(row["score"], "score", options, _SCALE)
    answer = texts.text(row["model_response"], "model_response")
    yield Example(
        "rating", texts.prompt(row["user_prompt"], "user_prompt"), (answer,), place, rater=str(row["user_id"])
    )


# ---- OpenAssistant


def oasst_tree(row: Row, options: Options) -> Iterator[Said]:
    """A tree of OpenAssistant: wherever people ranked several answers, a ranking (rank 0 is the best)."""
    yield from _below(row["prompt"], ())


def _below(root: Mapping[str, Any], before: tuple[Message, ...]) -> Iterator[Said]:
    """What is said at a message and at all below it."""
    waiting = [(root, before)]
    while waiting:
        node, before = waiting.pop()
        said = (*before, {"role": _ROLES[node["role"]], "content": texts.text(node["text"], "prompt.text")})
        replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
        ranked = [
            (values.number_of(reply["rank"], "replies.rank"), texts.text(reply["text"], "replies.text"))
            for reply in replies
            if reply["role"] == "assistant" and reply.get("rank") is not None
        ]
        if len(ranked) > 1:
            try:
                yield pairs.ranked(said, ranked)
            except Misfit as misfit:
                yield misfit
        waiting += [(reply, said) for reply in reversed(replies)]


def oasst_message(row: Row, options: Options) -> Iterator[Said]:
    """A message of OpenAssistant's flat files, which judges nothing without the others of its tree."""
    raise Misfit(
        "it is a single message of a tree (column 'parent_id'), and its 'rank' says nothing without "
        "its siblings; "
        "import the file of trees (2023-..._trees.jsonl.gz) instead"
    )
    yield  # a generator, as the others are
