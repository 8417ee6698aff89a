"""Public data sets of judged answers."""

from feedback.rows.examples import Example, Message
from tests.feedback.shapes import ASKED, BAD, BEFORE, GOOD, SYSTEM, Q, Shape, pair, rating, said


def shown(text: str) -> Message:
    """A message as Arena 140k has it."""
    return {
        "role": "user" if text == Q else "assistant",
        "content": [
            {"type": "text", "text": text, "image": None, "mimeType": None},
            {"type": "image", "text": None, "image": None, "mimeType": None},
        ],
    }


DATASETS = {
    "UltraFeedback": Shape(
        "ultrafeedback",
        [
            {
                "source": "evol",
                "instruction": Q,
                "models": ["m", "n"],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
                "completions": [
                    {
                        "model": "m",
                        "response": GOOD,
                        "custom_system_prompt": "Be brief.",
                        "critique": "Short and right.",
                        "overall_score": 1.0,
                        "annotations": {
                            "helpfulness": {"Rating": "4", "Type": ["1"], "Rationale": "r"},
                            "honesty": {"Rating": "5", "Rationale": "r"},
                            "instruction_following": {"Rating": "N/A", "Rationale": "r"},
                            "truthfulness": {"Rating": "3", "Type": ["1"]},
                        },
                    },
                    {"model": "n", "response": BAD, "fine-grained_score": 1.0, "overall_score": 8.0},
                ],
            }
        ],
        [rating(0.75, messages=(SYSTEM, *ASKED), comment="Short and right."), rating(0.0, BAD)],
    ),
    "HelpSteer 2": Shape(
        "helpsteer2",
        [
            {
                "prompt": f"Hello!\n<extra_id_1>Assistant\nHello. What can I do?\n<extra_id_1>User\n{Q}",
                "response": GOOD,
                "helpfulness": 3,
                "correctness": 4,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 2,
            }
        ],
        [rating(0.75, messages=(*BEFORE, *ASKED))],
    ),
    "HelpSteer 2, preferences": Shape(
        "helpsteer2-preference",
        [
            {
                "split": "train",
                "prompt": Q,
                "response_1": GOOD,
                "response_2": BAD,
                "preference_strength": strength,
                "preference_statement": "@Response 1 is right.",
            }
            for strength in (-2, 0, 3)
        ],
        [pair(value=value, comment="@Response 1 is right.") for value in (1.0, 0.5, 0.0)],
    ),
    "HelpSteer 3": Shape(
        "helpsteer3",
        [
            {
                "domain": "general",
                "language": "english",
                "context": [*BEFORE, *ASKED],
                "response1": GOOD,
                "response2": BAD,
                "overall_preference": strength,
                "individual_preference": [{"score": strength, "reasoning": "r"}],
            }
            for strength in (-1, 2)
        ],
        [pair((*BEFORE, *ASKED)), pair((*BEFORE, *ASKED), 0.0)],
    ),
    "HelpSteer 3, edits": Shape(
        "helpsteer3-edit",
        [{"context": list(ASKED), "original_response": BAD, "edited_response": GOOD, "feedback": ["Wrong."]}],
        [Example("correction", ASKED, (GOOD, BAD), 1.0)],
    ),
    "HelpSteer 3, edit quality": Shape(
        "helpsteer3-quality",
        [
            {
                "context": list(ASKED),
                "original_response": "Bees do.",
                "good_edited_response": GOOD,
                "bad_edited_response": BAD,
            }
        ],
        [pair()],
    ),
    "SHP": Shape(
        "shp",
        [
            {
                "post_id": "p",
                "history": Q,
                "human_ref_A": GOOD,
                "human_ref_B": BAD,
                "labels": labels,
                "score_A": 9,
                "score_B": 12,
                "score_ratio": 1.3,
            }
            for labels in (1, 0)
        ],
        [pair(), pair(value=0.0)],
    ),
    "Nectar": Shape(
        "nectar",
        [
            {
                "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
                "answers": [
                    {"answer": BAD, "model": "m", "rank": 3.0},
                    {"answer": GOOD, "model": "n", "rank": 1.0},
                    {"answer": "Bees do.", "model": "o", "rank": 2.0},
                ],
                "turns": 1,
                "good_natured": True,
            }
        ],
        [Example("ranking", ASKED, (GOOD, "Bees do.", BAD), 0.5, groups=((0,), (1,), (2,)))],
    ),
    "PRISM": Shape(
        "prism",
        [
            {
                "conversation_id": "c1",
                "user_id": "user7",
                "conversation_type": "unguided",
                "opening_prompt": "Hello!",
                "conversation_history": [
                    {"turn": 0, "role": "user", "content": "Hello!"},
                    {
                        "turn": 0,
                        "role": "model",
                        "content": "Hello. What can I do?",
                        "score": 90,
                        "if_chosen": True,
                    },
                    {"turn": 0, "role": "model", "content": "No.", "score": 3, "if_chosen": False},
                    {"turn": 0, "role": "model", "content": "Hm.", "score": 3, "if_chosen": False},
                    {"turn": 1, "role": "user", "content": Q},
                    {"turn": 1, "role": "model", "content": BAD, "score": 40, "if_chosen": False},
                    {"turn": 1, "role": "model", "content": GOOD, "score": 40, "if_chosen": True},
                ],
            }
        ],
        [
            Example(
                "ranking",
                BEFORE[:1],
                ("Hello. What can I do?", "No.", "Hm."),
                0.5,
                rater="user7",
                groups=((0,), (1, 2)),
            ),
            pair((*BEFORE, *ASKED), rater="user7"),
        ],
    ),
    "PRISM, utterances": Shape(
        "prism-utterance",
        [
            {
                "utterance_id": "ut1",
                "user_id": "user7",
                "turn": 0,
                "user_prompt": Q,
                "model_response": GOOD,
                "model_name": "m",
                "score": 100,
                "if_chosen": True,
            }
        ],
        [rating(1.0, rater="user7")],
    ),
    "OASST": Shape(
        "oasst",
        [
            {
                "message_tree_id": "t",
                "tree_state": "ready_for_export",
                "prompt": {
                    "message_id": "t",
                    "role": "prompter",
                    "text": Q,
                    "replies": [
                        {"role": "assistant", "text": BAD, "rank": 1, "replies": []},
                        {
                            "role": "assistant",
                            "text": GOOD,
                            "rank": 0,
                            "replies": [{"role": "prompter", "text": "And wasps?", "replies": []}],
                        },
                        {"role": "assistant", "text": "spam", "rank": 2, "deleted": True, "replies": []},
                    ],
                },
            }
        ],
        [pair()],
    ),
    "Chatbot Arena 33k": Shape(
        "arena",
        [
            {
                "question_id": "q",
                "model_a": "m",
                "model_b": "n",
                "winner": winner,
                "judge": "arena_user_5",
                "conversation_a": [*ASKED, said(GOOD)],
                "conversation_b": [*ASKED, said(BAD)],
                "turn": 1,
                "language": "English",
                "tstamp": 1682351591.1322,
                "toxic_chat_tag": {"roberta-large": {"flagged": False}},
            }
            for winner in ("model_a", "model_b", "tie (bothbad)")
        ],
        [pair(value=value, rater="arena_user_5", at=1682351591.1322) for value in (1.0, 0.0, 0.5)],
    ),
    "Chatbot Arena 55k": Shape(
        "arena-55k",
        [
            {
                "id": 30192,
                "model_a": "m",
                "model_b": "n",
                "prompt": f'["{Q}"]',
                "response_a": f'["{GOOD}"]',
                "response_b": f'["{BAD}"]',
                "winner_model_a": won[0],
                "winner_model_b": won[1],
                "winner_tie": won[2],
            }
            for won in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ],
        [pair(value=value) for value in (1.0, 0.0, 0.5)],
    ),
    "Chatbot Arena 140k": Shape(
        "arena",
        [
            {
                "id": "x",
                "model_a": "m",
                "model_b": "n",
                "winner": winner,
                "evaluation_session_id": "s1",
                "evaluation_order": 1,
                "conversation_a": [shown(Q), shown(GOOD)],
                "conversation_b": [shown(Q), shown(BAD)],
                "full_conversation": [],
                "language": "en",
                "is_code": False,
                "timestamp": "2025-06-12 14:23:52",
            }
            for winner in ("model_b", "both_bad")
        ],
        [pair(value=value, rater="s1", at=1749738232.0) for value in (0.0, 0.5)],
    ),
}
