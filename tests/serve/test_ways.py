"""How many functions of ours a request goes through, and in how many files: numbers that may only shrink.

Whoever wants to know what becomes of a thumb reads these functions. Counted is what begins in the thread of
the gateway's event loop, each function as often as it is called, a coroutine once; comprehensions are part of
their function. What runs beside requests now and then is left out by taking the least of several requests.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from feedback.core.log import EventLog
from feedback.shared import SharedStore
from tests.serve.conftest import Gateway, eventually, serving
from tests.serve.fake_vllm import FakeVllm

ROOT = Path(__file__).parents[2]
ROOMS = tuple(f"{ROOT / room}/" for room in ("feedback", "deploy", "serve", "hearken"))
WORKERS = ("asyncio_", "uvloop_")
"""How the threads are called that the event loop gives work to: some of them may be older than the tracer."""
TRIES = 100
"""So many, because on a busy machine what comes in one piece elsewhere comes in several."""


class Tracer:
    """Counts calls of our functions in threads that were started while it was there."""

    def __init__(self) -> None:
        self._frames: dict[int, FrameType] | None = None  # held, so that no two have one id

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or self._frames is None or not frame.f_code.co_filename.startswith(ROOMS):
            return
        if not threading.current_thread().name.startswith(WORKERS):
            self._frames[id(frame)] = frame

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The calls while the block lasts, by file and function."""
        found: Counter[str] = Counter()
        self._frames = {}
        yield found
        frames, self._frames = self._frames, None
        for frame in frames.values():
            if not frame.f_code.co_name.startswith("<") or frame.f_code.co_name == "<lambda>":
                found[f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_code.co_qualname}"] += 1


@pytest.fixture
def traced(
    tmp_path: Path, fake: FakeVllm, log: EventLog, shared: SharedStore
) -> Iterator[tuple[Gateway, Tracer]]:
    """A gateway whose calls are counted, and what counts them."""
    tracer = Tracer()
    before = sys.getprofile()
    threading.setprofile(tracer)
    try:
        running = serving(tmp_path, log, shared, (fake.url,), poll_seconds=30.0)
        gateway = running.__enter__()
    finally:
        threading.setprofile(before)
    try:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway, tracer
    finally:
        running.__exit__(None, None, None)


def shortest(tracer: Tracer, request: Callable[[], object]) -> Counter[str]:
    """The calls of the request that took the fewest."""
    request()
    found: list[Counter[str]] = []
    for _ in range(TRIES):
        with tracer.counting() as calls:
            request()
        found.append(calls)
    return min(found, key=Counter.total)


def held(calls: Counter[str], most_calls: int, most_files: int) -> None:
    """Print a way, and hold what it is."""
    files = {name.partition(":")[0] for name in calls}
    told = "\n".join(f"{count:5} {name}" for name, count in sorted(calls.items()))
    print(f"{calls.total()} calls in {len(files)} files\n{told}")
    assert calls.total() <= most_calls, "more calls than there were: find a shorter way"
    assert len(files) <= most_files, "more files than there were"
    assert calls.total() > most_calls - 20, "fewer calls by now: lower the number"
    assert len(files) > most_files - 6, "fewer files by now: lower the number"


def test_the_way_of_a_thumb(traced: tuple[Gateway, Tracer]) -> None:
    gateway, tracer = traced
    vote = {"kind": "thumbs", "completion_id": gateway.chat().json()["id"], "value": "up"}

    def thumb() -> None:
        assert gateway.http.post("/v1/feedback", json=vote).status_code == 202

    held(shortest(tracer, thumb), 55, 21)


def test_the_way_of_a_streamed_chat(traced: tuple[Gateway, Tracer]) -> None:
    gateway, tracer = traced

    def chat() -> None:
        assert gateway.chat("hi", stream=True).text.endswith("[DONE]\n\n")

    held(shortest(tracer, chat), 250, 43)
