"""Which engine a conversation goes to: the one that has its beginning cached, unless that is busy.

Highest random weight (Thaler and Ravishankar 1998): every engine has a score for every conversation. A
conversation keeps its engine while engines come and go, and the conversations of one that is lost spread
evenly over the others.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

SLACK = 4
"""Requests. A conversation leaves its engine for one that has more than this many fewer in flight."""


def of_chat(messages: list[dict[str, Any]]) -> bytes:
    """What stays the same over the turns of a conversation: all up to the first message of the user."""
    end = next((i for i, message in enumerate(messages) if message.get("role") == "user"), len(messages))
    return _digest(messages[: end + 1])


def of_prompt(prompt: object) -> bytes:
    """The same for a bare prompt, text or token ids: its beginning."""
    start = prompt[:_PROMPT_START] if isinstance(prompt, str | list) else prompt
    return _digest(start)


_PROMPT_START = 256  # characters or tokens


def _digest(start: object) -> bytes:
    return hashlib.blake2b(orjson.dumps(start), digest_size=16).digest()


def score(conversation: bytes, engine: str) -> bytes:
    """An engine's score for a conversation; the highest one is its engine."""
    return hashlib.blake2b(engine.encode(), key=conversation, digest_size=8).digest()


def prefer(conversation: bytes, in_flight: Mapping[str, int], slack: int = SLACK) -> str:
    """The engine (a URL) for a conversation, given how many requests each possible one has in flight."""
    most = min(in_flight.values()) + slack
    near = [engine for engine, busy in in_flight.items() if busy <= most]
    if len(near) == 1:
        return near[0]
    return max(near, key=lambda engine: score(conversation, engine))
