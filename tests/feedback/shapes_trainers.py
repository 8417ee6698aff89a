"""What trainers read, and what OpenAI keeps: pairs, thumbs, ratings, demonstrations."""

from feedback.rows.examples import Example
from tests.feedback.shapes import ASKED, BAD, BEFORE, GOOD, SYSTEM, Q, Shape, pair, rating, said, thumb

TRANSCRIPT = "\n\nHuman: Hello!\n\nAssistant: Hello. What can I do?\n\nHuman: " + Q + "\n\nAssistant: "

TRAINERS = {
    "HH-RLHF": Shape(
        "trl-preference",
        [{"chosen": TRANSCRIPT + GOOD, "rejected": TRANSCRIPT + BAD}],
        [pair((*BEFORE, *ASKED))],
    ),
    "whole conversations": Shape(
        "trl-preference",
        [{"prompt": Q, "chosen": [SYSTEM, *ASKED, said(GOOD)], "rejected": [SYSTEM, *ASKED, said(BAD)]}],
        [pair((SYSTEM, *ASKED))],
    ),
    "UltraFeedback, binarized": Shape(
        "trl-preference",
        [
            {
                "prompt": Q,
                "prompt_id": "4f",
                "chosen": [*ASKED, said(GOOD)],
                "rejected": [*ASKED, said(BAD)],
                "messages": [*ASKED, said(GOOD)],
                "score_chosen": 8.5,
                "score_rejected": score,
            }
            for score in (4.0, 8.5)
        ],
        [pair(), pair(value=0.5)],
    ),
    "UltraFeedback, cleaned": Shape(
        "trl-preference",
        [
            {
                "source": "evol",
                "prompt": Q,
                "chosen": [*ASKED, said(GOOD)],
                "chosen-rating": 5,
                "chosen-model": "m",
                "rejected": [*ASKED, said(BAD)],
                "rejected-rating": 1,
                "rejected-model": "n",
            }
        ],
        [pair()],
    ),
    "Orca": Shape(
        "trl-preference",
        [{"system": "Be brief.", "question": Q, "chosen": GOOD, "rejected": BAD}],
        [pair((SYSTEM, *ASKED))],
    ),
    "Orca, distilled": Shape(
        "trl-preference",
        [
            {
                "system": "Be brief.",
                "input": Q,
                "chosen": GOOD,
                "rejected": BAD,
                "rating": [9.0, 9.0],
                "order": ["A", "B"],
                "status": "tie",
                "chosen_score": 9.0,
            }
        ],
        [pair((SYSTEM, *ASKED), 0.5)],
    ),
    "pairs with system and history": Shape(
        "trl-preference",
        [
            {
                "instruction": Q,
                "history": [["Hello!", "Hello. What can I do?"]],
                "system": "Be brief.",
                "chosen": GOOD,
                "rejected": BAD,
            }
        ],
        [pair((SYSTEM, *BEFORE, *ASKED))],
    ),
    "ShareGPT pairs": Shape(
        "sharegpt-pair",
        [
            {
                "conversations": [{"from": "human", "value": Q}],
                "system": "Be brief.",
                "chosen": {"from": "gpt", "value": GOOD},
                "rejected": {"from": "gpt", "value": BAD},
            }
        ],
        [pair((SYSTEM, *ASKED))],
    ),
    "KTO": Shape(
        "trl-kto",
        [
            {"prompt": Q, "completion": GOOD, "label": True},
            {"messages": [*ASKED, said(BAD)], "label": False},
            {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": BAD}], "label": 0},
        ],
        [thumb(1.0), thumb(0.0, BAD), thumb(0.0, BAD)],
    ),
    "ratings with fractions": Shape(
        "rating",
        [{"prompt": Q, "completion": GOOD, "score": score} for score in (1.0, 0.25, 0.0)],
        [rating(1.0), rating(0.25), rating(0.0)],
    ),
    "stars": Shape(
        "rating",
        [{"messages": [*ASKED, said(GOOD)], "rating": stars} for stars in (1, 4)],
        [rating(0.0), rating(0.75)],
        scales={"": (1.0, 5.0)},
    ),
    "named columns": Shape(
        "rating",
        [{"q": Q, "a": GOOD, "toxicity": 0.25, "info": {"liked": "yes"}}],
        [rating(0.75)],
        columns={"q": "prompt", "a": "completion", "toxicity": "rating", "info.liked": "ignore"},
    ),
    "demonstrations": Shape(
        "demonstration",
        [
            {"prompt": Q, "completion": GOOD, "source": "wiki", "id": 7},
            {
                "messages": [SYSTEM, *ASKED, said(GOOD) | {"weight": 1}],
                "tools": [],
                "parallel_tool_calls": False,
            },
            {"instruction": "Answer.", "context": Q, "response": GOOD, "category": "open_qa"},
        ],
        [
            Example("demonstration", ASKED, (GOOD,), 1.0),
            Example("demonstration", (SYSTEM, *ASKED), (GOOD,), 1.0),
            Example("demonstration", ({"role": "user", "content": f"Answer.\n{Q}"},), (GOOD,), 1.0),
        ],
    ),
    "OpenAI DPO": Shape(
        "openai-dpo",
        [
            {
                "input": {"messages": [SYSTEM, *ASKED], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [said(GOOD)],
                "non_preferred_output": [said(BAD)],
            }
        ],
        [pair((SYSTEM, *ASKED))],
    ),
    "OpenAI stored completions": Shape(
        "openai-stored",
        [
            {
                "object": "chat.completion",
                "id": f"chatcmpl-{liked}",
                "model": "gpt",
                "created": 1763600000,
                "usage": {"total_tokens": 9},
                "metadata": {"liked": liked},
                "choices": [{"index": 0, "message": said(GOOD), "finish_reason": "stop"}],
                "messages": [{"id": "x-0", "role": "user", "content": None, "content_parts": parts}],
            }
            for liked, parts in (
                ("no", [{"type": "text", "text": Q}]),
                ("yes", [{"type": "text", "text": Q}]),
            )
        ],
        [
            thumb(
                liked, at=1763600000.0, messages=({"role": "user", "content": [{"type": "text", "text": Q}]},)
            )
            for liked in (0.0, 1.0)
        ],
        columns={"metadata.liked": "label"},
    ),
}
