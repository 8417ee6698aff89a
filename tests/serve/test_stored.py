"""Stored completions through the official client: list, read, change, delete, and their messages."""

import openai
import pytest

from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import FakeVllm, Trouble

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}]},
]


def stored(gateway: Gateway, **fields: object) -> openai.types.chat.ChatCompletion:
    body = {"model": "hearken", "messages": MESSAGES, "store": True} | fields
    answer: openai.types.chat.ChatCompletion = gateway.openai.chat.completions.create(**body)
    return answer


def test_a_stored_answer_can_be_read_again(start: Start) -> None:
    gateway = start(blind_voters=False)
    answer = stored(gateway, metadata={"topic": "parcels"}, temperature=0.5, logprobs=True)
    again = gateway.openai.chat.completions.retrieve(answer.id)
    known = answer.model_dump(exclude={"hearken"})
    assert again.model_dump(include=set(known)) == known
    assert again.metadata == {"topic": "parcels"}
    assert (again.temperature, again.top_p, again.seed) == (0.5, 1.0, None)
    listed = gateway.openai.chat.completions.list()
    assert [found.id for found in listed] == [answer.id]
    assert listed.first_id == listed.last_id == answer.id


@pytest.mark.parametrize("usage", [False, True])
def test_a_stored_stream_is_the_whole_answer(start: Start, usage: bool) -> None:
    gateway = start(blind_voters=False)
    whole = stored(gateway, logprobs=True, n=2)
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(stored(gateway, stream=True, logprobs=True, n=2, **options))  # type: ignore[call-overload]
    kept = gateway.openai.chat.completions.retrieve(chunks[0].id)
    assert [c.message.content for c in kept.choices] == [c.message.content for c in whole.choices]
    assert [c.logprobs for c in kept.choices] == [c.logprobs for c in whole.choices]
    assert kept.usage == whole.usage
    assert {c.finish_reason for c in kept.choices} == {"stop"}


def test_only_what_was_to_be_stored_is(gateway: Gateway, fake: FakeVllm) -> None:
    gateway.chat()
    gateway.chat(store=False, stream=True)
    gateway.chat(Trouble.FAIL, store=True, stream=True)
    assert list(gateway.openai.chat.completions.list()) == []
    assert all("store" not in request for request in fake.requests)


def test_lists_have_pages_orders_and_filters(gateway: Gateway) -> None:
    ids = [stored(gateway, metadata={"turn": str(i % 2)}).id for i in range(5)]
    client = gateway.openai.chat.completions
    assert [found.id for found in client.list(limit=2)] == ids  # the client fetches page after page
    assert [found.id for found in client.list(order="desc", limit=3)] == ids[::-1]
    assert [found.id for found in client.list(metadata={"turn": "1"})] == ids[1::2]
    assert [found.id for found in client.list(after=ids[3])] == ids[4:]
    assert list(client.list(model="other")) == []
    page = client.list(limit=2, after=ids[0])
    assert (page.has_more, page.first_id, page.last_id) == (True, ids[1], ids[2])


def test_metadata_is_changed_and_answers_are_deleted(gateway: Gateway) -> None:
    client = gateway.openai.chat.completions
    answer = stored(gateway, metadata={"a": "b"})
    assert client.update(answer.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.update(answer.id, metadata=None).metadata == {}
    gone = client.delete(answer.id)
    assert (gone.id, gone.deleted, gone.object) == (answer.id, True, "chat.completion.deleted")
    for use in (
        client.retrieve,
        client.delete,
        lambda i: client.update(i, metadata={}),
        client.messages.list,
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            use(answer.id)
        assert caught.value.code == "completion_not_found"
    assert len(gateway.completions()) == 1  # the log is not the clients' to change


def test_the_messages_of_an_answer(gateway: Gateway) -> None:
    answer = stored(gateway)
    client = gateway.openai.chat.completions.messages
    listed = list(client.list(answer.id))
    assert [(m.id, m.content) for m in listed] == [
        (f"{answer.id}-0", "Be brief."),
        (f"{answer.id}-1", "hi there"),
    ]
    assert listed[0].content_parts is None
    assert len(listed[1].content_parts or []) == 2
    assert [m.id for m in client.list(answer.id, order="desc", limit=1)] == [m.id for m in listed[::-1]]
    assert [m.id for m in client.list(answer.id, after=listed[0].id)] == [listed[1].id]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "chatcmpl-none"}, "after"),
        ({"limit": ["1", "2"]}, "limit"),
        ({"metadata[]": "x"}, "metadata"),
        ({"metadata[a][b]": "x"}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata[a]": ["x", "y"]}, "metadata"),
    ],
)
def test_bad_queries_are_named(steady: Gateway, query: dict[str, str | list[str]], param: str) -> None:
    answer = steady.http.get("/v1/chat/completions", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [{}, {"metadata": 3}, {"metadata": {"a": 1}}])
def test_bad_changes_are_named(steady: Gateway, body: dict[str, object]) -> None:
    answer = steady.http.post(f"/v1/chat/completions/{stored(steady).id}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("metadata")
