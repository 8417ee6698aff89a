"""What services that trace and collect votes export: Langfuse, LangSmith, TensorZero, Open WebUI."""

from typing import Any

from feedback.rows.examples import Example
from tests.feedback.shapes import ASKED, BAD, BEFORE, GOOD, SYSTEM, Q, Shape, pair, rating, said, thumb

AT = "2026-11-20T00:00:00Z"
SECONDS = 1795132800.0
NAMED: dict[str, Any] = {"at": SECONDS, "metadata": {"name": "helpful"}}
OPEN_AI_INPUT = {"messages": [SYSTEM, *ASKED]}


def vote(rating: int, data: dict[str, Any], meta: dict[str, Any], rival: str = "n") -> dict[str, Any]:
    """A row of Open WebUI's feedback export: a question with two answers, of which the first is voted on."""
    messages = {
        "1": {"id": "1", "parentId": None, "role": "user", "content": "Hello!"},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "Hello. What can I do?"},
        "3": {"id": "3", "parentId": "2", "role": "user", "content": Q},
        "4": {"id": "4", "parentId": "3", "role": "assistant", "content": GOOD, "model": "m"},
        "5": {"id": "5", "parentId": "3", "role": "assistant", "content": BAD, "model": rival},
    }
    chat = {"params": {"system": "Be brief."}, "history": {"currentId": "4", "messages": messages}}
    return {
        "id": "f1",
        "user_id": "ada",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m", **data},
        "meta": {"chat_id": "c", "message_id": "4", **meta},
        "snapshot": {"chat": {"id": "c", "chat": chat}},
        "created_at": 1763600000,
        "updated_at": 1763600001,
    }


TALK = (SYSTEM, *BEFORE, *ASKED)
ADA: dict[str, Any] = {"rater": "ada", "at": 1763600001.0}

SERVICES = {
    "Open WebUI": Shape(
        "open-webui",
        [
            vote(
                1, {"reason": "accurate_information", "comment": "Right.", "tags": ["bees"]}, {"arena": False}
            ),
            vote(-1, {"reason": "being_lazy"}, {"arena": False}),
            vote(-1, {"reason": "other_thing"}, {}),
        ],
        [
            thumb(1.0, messages=TALK, comment="Right.", tags=("bees",), reasons=("accurate",), **ADA),
            thumb(0.0, messages=TALK, reasons=("incomplete",), **ADA),
            thumb(0.0, messages=TALK, tags=("other_thing",), **ADA),
        ],
    ),
    "Open WebUI, details": Shape(
        "open-webui",
        [vote(1, {"details": {"rating": 10}}, {}), vote(-1, {"details": {"rating": 1}}, {})],
        [rating(1.0, messages=TALK, **ADA), rating(0.0, messages=TALK, **ADA)],
    ),
    "Open WebUI, arena": Shape(
        "open-webui",
        [vote(value, {"sibling_model_ids": ["n"]}, {"arena": True}) for value in (1, -1, 0)],
        [pair(TALK, value, **ADA) for value in (1.0, 0.0, 0.5)],
    ),
    "Langfuse, API": Shape(
        "langfuse",
        [
            {
                "id": "s1",
                "traceId": "t1",
                "observationId": None,
                "name": "helpful",
                "source": "API",
                "dataType": kind,
                "value": value,
                "stringValue": word,
                "authorUserId": "ada",
                "timestamp": AT,
                "trace": {"userId": "eve", "tags": [], "environment": "default"},
            }
            for kind, value, word in (
                ("BOOLEAN", 0, "False"),
                ("NUMERIC", 0.75, None),
                ("CATEGORICAL", None, "thumbs up"),
            )
        ],
        [
            thumb(0.0, messages=(SYSTEM, *ASKED), rater="ada", **NAMED),
            rating(0.75, messages=(SYSTEM, *ASKED), rater="ada", **NAMED),
            thumb(1.0, messages=(SYSTEM, *ASKED), rater="ada", **NAMED),
        ],
        files=[
            [
                {
                    "id": "t1",
                    "timestamp": AT,
                    "name": "chat",
                    "sessionId": None,
                    "userId": "eve",
                    "input": OPEN_AI_INPUT,
                    "output": said(GOOD),
                    "scores": ["s1"],
                    "observations": [],
                }
            ]
        ],
    ),
    "Langfuse, a trace": Shape(
        "langfuse-trace",
        [
            {
                "id": "t1",
                "sessionId": "x",
                "userId": "eve",
                "input": {"question": Q},
                "output": {"answer": GOOD},
                "scores": [
                    {"id": "s1", "traceId": "t1", "name": "toxicity", "value": 0.25, "dataType": "NUMERIC"},
                    {
                        "id": "s2",
                        "traceId": "t1",
                        "observationId": "o1",
                        "name": "correct",
                        "value": 0,
                        "dataType": "BOOLEAN",
                    },
                ],
                "observations": [
                    {"id": "o1", "type": "GENERATION", "traceId": "t1", "input": list(ASKED), "output": BAD},
                    {"id": "o2", "type": "SPAN", "traceId": "t1", "input": None, "output": None},
                ],
            }
        ],
        [
            thumb(0.0, BAD, rater="eve", metadata={"name": "correct"}),
            rating(0.75, rater="eve", metadata={"name": "toxicity"}),
        ],
    ),
    "Langfuse, blobs": Shape(
        "langfuse",
        [
            {
                "id": "s1",
                "timestamp": "2026-11-20 00:00:00.000000",
                "project_id": "p",
                "trace_id": "t1",
                "observation_id": None,
                "name": "helpful",
                "value": stars,
                "data_type": "NUMERIC",
                "string_value": None,
                "comment": "ok",
            }
            for stars in (1, 5)
        ],
        [rating(value, rater="eve", comment="ok", **NAMED) for value in (0.0, 1.0)],
        scales={"helpful": (1.0, 5.0)},
        files=[
            [
                {
                    "id": "o1",
                    "trace_id": "t1",
                    "type": "GENERATION",
                    "parent_observation_id": None,
                    "user_id": "eve",
                    "input": '{"messages": [{"role": "user", "content": "' + Q + '"}]}',
                    "output": '{"role": "assistant", "content": "' + GOOD + '"}',
                }
            ]
        ],
    ),
    "Langfuse, a table of traces": Shape(
        "langfuse-trace",
        [
            {
                "id": "t1",
                "bookmarked": "false",
                "name": "chat",
                "userId": "eve",
                "input": Q,
                "output": GOOD,
                "tags": "[]",
                "helpful": cell,
            }
            for cell in ("[0.25]", '["False"]')
        ],
        [
            rating(0.25, rater="eve", metadata={"name": "helpful"}),
            thumb(0.0, rater="eve", metadata={"name": "helpful"}),
        ],
    ),
    "LangSmith": Shape(
        "langsmith-feedback",
        [
            {
                "id": "f",
                "run_id": "r1",
                "key": key,
                "score": score,
                "value": None,
                "comment": None,
                "correction": correction,
                "feedback_source": {"type": "api", "user_id": "ada"},
                "extra": {"feedback_config": {"type": "continuous", "min": 1, "max": 5}}
                if key == "quality"
                else None,
                "created_at": AT,
            }
            for key, score, correction in (
                ("helpful", False, None),
                ("quality", 2, None),
                ("hallucination", True, None),
                ("correction", None, {"answer": "In the hive."}),
            )
        ],
        [
            thumb(0.0, BAD, rater="ada", **NAMED),
            rating(0.25, BAD, rater="ada", at=SECONDS, metadata={"name": "quality"}),
            thumb(0.0, BAD, rater="ada", at=SECONDS, metadata={"name": "hallucination"}),
            Example(
                "correction",
                ASKED,
                ("In the hive.", BAD),
                1.0,
                rater="ada",
                at=SECONDS,
                metadata={"name": "correction"},
            ),
        ],
        files=[
            [
                {
                    "id": "r1",
                    "run_type": "llm",
                    "name": "ChatOpenAI",
                    "inputs": {
                        "messages": [
                            [
                                {
                                    "lc": 1,
                                    "type": "constructor",
                                    "id": ["langchain", "schema", "messages", "HumanMessage"],
                                    "kwargs": {"content": Q, "type": "human"},
                                }
                            ]
                        ]
                    },
                    "outputs": {"generations": [[{"text": BAD, "type": "ChatGeneration"}]]},
                    "feedback_stats": {"helpful": {"n": 1, "avg": 0.0}},
                }
            ]
        ],
    ),
    "LangSmith, runs alone": Shape(
        "langsmith-run",
        [
            {
                "id": "r1",
                "run_type": "chain",
                "inputs": '{"question": "' + Q + '"}',
                "outputs": '{"output": "' + GOOD + '"}',
                "feedback_stats": {"helpful": {"n": 1, "avg": 0.25}},
            }
        ],
        [rating(0.25, metadata={"name": "helpful"})],
    ),
    "TensorZero": Shape(
        "tensorzero-metric",
        [
            {
                "id": "1",
                "target_id": "e1",
                "metric_name": "solved",
                "value": False,
                "tags": {},
                "timestamp": AT,
            },
            {
                "id": "2",
                "target_id": "i1",
                "metric_name": "toxicity",
                "value": 0.75,
                "tags": {"user_id": "ada"},
            },
            {"id": "3", "inference_id": "i1", "value": '[{"type": "text", "text": "' + GOOD + '"}]'},
        ],
        [
            thumb(0.0, BAD, messages=(SYSTEM, *ASKED), rater="eve", at=SECONDS, metadata={"name": "solved"}),
            rating(0.25, BAD, messages=(SYSTEM, *ASKED), rater="ada", metadata={"name": "toxicity"}),
            Example("correction", (SYSTEM, *ASKED), (GOOD, BAD), 1.0, rater="eve"),
        ],
        files=[
            [
                {
                    "id": "i1",
                    "function_name": "chat",
                    "variant_name": "v",
                    "episode_id": "e1",
                    "input": {
                        "system": "Be brief.",
                        "messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}],
                    },
                    "output": '[{"type": "text", "text": "' + BAD + '"}]',
                    "tags": {"user_id": "eve"},
                }
            ]
        ],
    ),
}
