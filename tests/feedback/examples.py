"""Small completions and votes for the tests, as the log carries them."""

from feedback.core.events import COMPLETIONS, FEEDBACK, Choice, Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Record


def completion(completion_id: str, *, role: str = "answer", choices: int = 1, at: float = 1.0) -> Completion:
    return Completion.model_validate(
        {
            "event_id": completion_id,
            "completion_id": completion_id,
            "at": at,
            "conversation": f"talk-{completion_id}",
            "user": "u_ada",
            "policy_version": "policy-1-0123abcd",
            "arm": "canary",
            "role": role,
            "messages": [{"role": "user", "content": "Where is my parcel?"}],
            "prompt_token_ids": [1, 500, 2],
            "choices": [
                Choice(index=i, text=f"answer {i}", token_ids=[500, i], logprobs=[-0.5, -0.25])
                for i in range(choices)
            ],
        }
    )


def thumb(target: str, value: float, revision: int, *, rater: str = "u_ada", choice: int = 0) -> Feedback:
    return Feedback(
        event_id=vote_id("default", rater, "thumbs", [(target, choice)]),
        at=2.0,
        revision=revision,
        kind="thumbs",
        rater=rater,
        targets=[Target(completion_id=target, choice=choice)],
        value=value,
        label="up" if value else "down",
    )


def comparison(a: str, b: str, value: float, revision: int, *, rater: str = "u_ada") -> Feedback:
    """A vote that names `a` first; `value` 1 prefers `a`."""
    return Feedback(
        event_id=vote_id("default", rater, "comparison", [(a, 0), (b, 0)]),
        at=2.0,
        revision=revision,
        kind="comparison",
        rater=rater,
        targets=[Target(completion_id=a), Target(completion_id=b)],
        value=value,
        label={1.0: "left", 0.0: "right", 0.5: "same"}[value],
    )


def record(event: Completion | Feedback, offset: int = 0) -> Record:
    topic = COMPLETIONS if isinstance(event, Completion) else FEEDBACK
    return Record(topic, 0, offset, "k", event.model_dump_json().encode())
