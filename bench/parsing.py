"""What it costs to parse and check a chat and a batch of votes: as they are taken, and field by field.

A chat has 20 messages; a batch is an array of 1,000 thumbs. Field by field is how a body is checked in which
something is wrong, and how each was before there were types for them. CPU of one thread; the best round
counts.
"""

import argparse
import json
import time
from collections.abc import Callable

import orjson

from serve.generation.request_schemas import CHAT
from serve.generation.requests import chat_of, check_chat
from serve.http.bodies import parse_object
from serve.schemas.validator import find_fault
from serve.votes.bodies import read_vote, split
from serve.votes.common import REASONS, SOURCES, Rules
from serve.votes.vote import parse_vote

MODEL = "hearken"
MESSAGES, VOTES = 20, 1000


def main(argv: list[str]) -> int:
    """Print the costs of each side; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench parsing", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="the best one counts")
    arguments = parser.parse_args(argv)
    print(f"$ python -m bench parsing --rounds {arguments.rounds}")
    chat, votes = a_chat(), a_batch()
    rules = Rules(time.time(), frozenset(REASONS), SOURCES)

    def chat_by_field() -> None:
        body = parse_object(chat)
        find_fault(body, CHAT)
        chat_of(body, MODEL)

    def batch_by_field() -> None:
        for item in orjson.loads(votes):
            parse_vote(item, rules)

    def batch() -> None:
        for item in split(votes, "application/json"):
            read_vote(item, rules)

    found = {
        "chat_us": cost(lambda: check_chat(parse_object(chat), MODEL), 200, arguments.rounds) * 1e6,
        "chat_by_field_us": cost(chat_by_field, 200, arguments.rounds) * 1e6,
        "votes_ms": cost(batch, 5, arguments.rounds) * 1e3,
        "votes_by_field_ms": cost(batch_by_field, 5, arguments.rounds) * 1e3,
    }
    for name, spent in found.items():
        print(f"  {name:<18} {spent:8.2f}")
    print(json.dumps({name: round(spent, 2) for name, spent in found.items()}))
    return 0


def a_chat() -> bytes:
    """The body of a chat, 4 kB."""
    said = "some words of a chat, as people write them, " * 4
    roles = ["system", *(("user", "assistant")[i % 2] for i in range(MESSAGES - 1))]
    messages = [{"role": role, "content": f"{i}: {said}"} for i, role in enumerate(roles)]
    fields = {"stream": True, "user": "user-1", "temperature": 0.7, "max_tokens": 200}
    return orjson.dumps({"model": MODEL, "messages": messages, **fields})


def a_batch() -> bytes:
    """The body of a batch of thumbs."""
    ids = (f"chatcmpl-{i:032x}-{i:032x}" for i in range(VOTES))
    votes = [
        {"kind": "thumbs", "completion_id": each, "value": ("up", "down")[i % 2], "user": f"user-{i}"}
        for i, each in enumerate(ids)
    ]
    return orjson.dumps(votes)


def cost(work: Callable[[], object], times: int, rounds: int) -> float:
    """CPU seconds of some work."""
    best = float("inf")
    for _ in range(rounds):
        before = time.thread_time()
        for _ in range(times):
            work()
        best = min(best, (time.thread_time() - before) / times)
    return best
