"""Completions decoded the quick way are what `Completion` says they are, or are left to it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feedback.core.decoded import DecodedChoice, DecodedCompletion, DecodedSampling, decoded
from feedback.core.events import Choice, Completion, Sampling
from feedback.joining.labels import Answer
from feedback.joining.opened import Opener, head_of
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from tests.feedback.examples import completion

WHOLE: dict[str, Any] = {
    **completion("c1", choices=2).model_dump(),
    "tenant": "shop",
    "unit": "talk-1",
    "external_id": "msg-1",
    "episode_id": "chat-1",
    "ttft_seconds": 0.25,
    "metadata": {"page": "7"},
    "sealed": None,
}
OF_CHOICES = sorted(WHOLE["choices"][0])
WRONG: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**70, 0.0, 1.0, 1.5, 1e300),
    *("", "5", "1.5", "true", "answer", "reference", "canary", "nobody", "a\x00\u2028é"),
    *([], {}, [1], [1.0], [True], ["1"], [None], [[1]], [{}], {"top_k": 1}, {"top_k": 1.0}, {"role": 7}),
]
"""Values of every type, of which each is right for few fields."""
OTHERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(WRONG))


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """A completion in which something may be left out, be another, or be new; or a part of it, or spoilt."""
    made = json.loads(json.dumps(WHOLE))
    for name in draw(st.sets(st.sampled_from(sorted(WHOLE)), max_size=3)):
        if draw(st.booleans()):
            made[name] = draw(OTHERS)
        else:
            del made[name]
    if draw(st.integers(0, 3)) == 0 and isinstance(made.get("choices"), list) and len(made["choices"]) == 2:
        made["choices"][0][draw(st.sampled_from(OF_CHOICES))] = draw(OTHERS)
    if draw(st.integers(0, 9)) == 0:
        made["of_a_newer_writer"] = draw(OTHERS)
    value = json.dumps(made, ensure_ascii=draw(st.booleans())).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(value) - 1))
        value = value[:at] + draw(st.binary(max_size=2)) + value[at + 1 :]
    return value


def answers_of(completion: Completion) -> tuple[Answer, ...]:
    """The answers of a completion, field by field."""
    return tuple(
        Answer(
            completion.completion_id,
            choice.index,
            completion.user,
            completion.policy_version,
            completion.arm,
            completion.role,
            completion.table_epoch,
            tuple(
                completion.prompt_token_ids if choice.prompt_token_ids is None else choice.prompt_token_ids
            ),
            tuple(choice.token_ids),
            choice.text,
            choice.finish_reason,
            completion.at,
            completion.ttft_seconds,
            completion.latency_seconds,
            completion.sampling.is_plain,
            completion.tenant,
            completion.external_id,
            completion.episode_id,
            choice.length,
            choice.answer_start,
            completion.unit,
            completion.selected,
        )
        for choice in completion.choices
    )


@pytest.mark.parametrize(
    ("quick", "event"),
    [(DecodedCompletion, Completion), (DecodedChoice, Choice), (DecodedSampling, Sampling)],
)
def test_no_field_is_missing(quick: Any, event: Any) -> None:
    assert set(quick.__struct_fields__) - {"metadata"} == set(event.model_fields)


def test_what_is_written_today_is_decoded_the_quick_way(tmp_path: Any) -> None:
    assert decoded(Completion.model_validate(WHOLE).model_dump_json().encode()) is not None
    sealer = Sealer(Vault(tmp_path / "vault", b"s" * 32))
    sealed = sealer.seal(Completion.model_validate(WHOLE))
    assert decoded(sealed.model_dump_json().encode()) is not None


@given(values())
def test_what_is_decoded_is_what_the_event_says(value: bytes) -> None:
    check(value)


@pytest.mark.parametrize("part", ["completion", "choice", "sampling"])
def test_every_field_is_as_strict_as_the_events(part: str) -> None:
    checked = 0
    for other in WRONG:
        for name in fields_of(json.loads(json.dumps(WHOLE)), part):
            made = json.loads(json.dumps(WHOLE))
            fields_of(made, part)[name] = other
            check(json.dumps(made).encode())
            checked += 1
    assert checked > 100


def fields_of(made: Any, part: str) -> Any:
    """A part of a completion, by its fields."""
    return {"completion": made, "choice": made["choices"][1], "sampling": made["sampling"]}[part]


def check(value: bytes) -> None:
    """What is decoded has the event's values, and heads and answers are what they are by the event."""
    found, opener = decoded(value), Opener()
    if found is not None:
        event = Completion.model_validate_json(value)
        for name in set(DecodedCompletion.__struct_fields__) - {"choices", "sampling", "metadata"}:
            assert getattr(found, name) == getattr(event, name)
            assert type(getattr(found, name)) is type(getattr(event, name))
        assert [vars(c) for c in event.choices] == [
            {name: getattr(c, name) for name in Choice.model_fields} for c in found.choices
        ]
        for quick, choice in zip(found.choices, event.choices, strict=True):
            assert (quick.is_blank, quick.answer_length) == (choice.is_blank, choice.answer_length)
        assert found.sampling.is_plain == event.sampling.is_plain
        assert found.exposed == event.exposed
    for ask, plainly in (
        (opener.head, head_of),
        (opener.answers, lambda v: answers_of(Completion.model_validate_json(v))),
    ):
        assert said(ask, value) == said(plainly, value)


def said(ask: Any, value: bytes) -> str:
    """What a question comes to, errors included; of numbers that are none, that they are none."""
    try:
        return repr(ask(value))
    except ValidationError as error:
        return f"refused: {error.errors(include_url=False, include_input=False)}"
    except ValueError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("changes", [{}, {"consent": True}, {"of_a_newer_writer": 1}, {"choices": []}])
def test_texts_are_opened_as_the_event_has_them(tmp_path: Any, changes: dict[str, Any]) -> None:
    sealer = Sealer(Vault(tmp_path / "vault", b"s" * 32))
    event = Completion.model_validate({**WHOLE, **changes})
    value = sealer.seal(event).model_dump_json().encode()
    assert b"parcel" not in value
    assert Opener(sealer).answers(value) == answers_of(event)
    bare = answers_of(Completion.model_validate_json(value))
    assert Opener(sealer).bare().answers(value) == bare != answers_of(event) or not event.choices
    sealer.erase(event.tenant, event.user)
    assert Opener(sealer).answers(value) == bare
