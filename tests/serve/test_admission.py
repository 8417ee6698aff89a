"""The queue before the engines: bounded in length and time, fair between keys, and it loses no place."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engines.admission import Admission, FairQueue
from serve.http.errors import Unavailable, overloaded
from serve.metrics import Metrics


class Places:
    """So many places, of one kind or another."""

    def __init__(self, **free: int) -> None:
        self.free = Counter(free)
        self.most = Counter(free)

    def find(self, kind: str) -> str | None:
        if self.free[kind] == 0:
            return None
        self.free[kind] -= 1
        return kind

    def give_back(self, kind: str) -> None:
        self.free[kind] += 1
        assert self.free[kind] <= self.most[kind], "a place was given back twice"


def admission(places: Places, length: int = 100, seconds: float = 30.0) -> Admission[str, str]:
    return Admission(places.find, places.give_back, length, seconds, Metrics())


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(limited())


async def settled() -> None:
    """Every task that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_keys_take_turns_however_many_requests_each_has() -> None:
    order: list[str] = []

    async def work() -> None:
        places = Places(a=1)
        gate = admission(places)
        first = await gate.enter("x", "a", overloaded)

        async def request(key: str) -> None:
            place = await gate.enter(key, "a", overloaded)
            order.append(key)
            gate_back(place)

        def gate_back(place: str) -> None:
            places.give_back(place)
            gate.serve()

        tasks = []
        for key in ["loud"] * 6 + ["shy"] * 2 + ["new"]:
            tasks.append(asyncio.create_task(request(key)))
            await settled()
        gate_back(first)
        await asyncio.gather(*tasks)
        assert places.free["a"] == 1

    run(work)
    assert order[:6] == ["loud", "shy", "new", "loud", "shy", "loud"]


def test_nobody_overtakes_those_who_wait_for_the_same() -> None:
    async def work() -> None:
        places = Places(a=1, b=1)
        gate = admission(places)
        held = await gate.enter("x", "a", overloaded)
        waiting = asyncio.create_task(gate.enter("x", "a", overloaded))
        await settled()
        # Another kind is free: whoever wants that does not stand behind those who wait for the first.
        assert await gate.enter("x", "b", overloaded) == "b"
        late = asyncio.create_task(gate.enter("x", "a", overloaded))
        await settled()
        places.give_back(held)
        gate.serve()
        await settled()
        assert (waiting.done(), late.done()) == (True, False)
        late.cancel()
        await asyncio.wait([late])

    run(work)


def test_a_full_queue_refuses_at_once_and_a_long_wait_ends() -> None:
    async def work() -> None:
        gate = admission(Places(a=0), length=1, seconds=0.05)
        waiting = asyncio.create_task(gate.enter("x", "a", overloaded))
        await settled()
        with pytest.raises(Unavailable) as caught:
            await gate.enter("x", "a", overloaded)
        assert caught.value.code == "queue_full"
        assert int(caught.value.headers["retry-after"]) >= 1
        with pytest.raises(Unavailable) as caught:
            await waiting
        assert caught.value.code == "overloaded"

    run(work)


def test_those_who_wait_for_what_is_away_keep_nobody_from_what_is_free() -> None:
    async def work() -> None:
        gate = admission(Places(a=0, b=1), length=2)
        waiting = [asyncio.create_task(gate.enter("x", "a", overloaded)) for _ in range(2)]
        await settled()
        assert await gate.enter("x", "b", overloaded) == "b"
        with pytest.raises(Unavailable):
            await gate.enter("x", "b", overloaded)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    run(work)


def test_a_key_that_fills_the_queue_makes_room_for_others() -> None:
    async def work() -> None:
        gate = admission(Places(a=0), length=3)
        loud = [asyncio.create_task(gate.enter("loud", "a", overloaded)) for _ in range(3)]
        await settled()
        shy = asyncio.create_task(gate.enter("shy", "a", overloaded))
        await settled()
        assert [task.done() for task in (*loud, shy)] == [False, False, True, False]
        assert isinstance(loud[2].exception(), Unavailable)
        for task in (*loud, shy):
            task.cancel()
        await asyncio.wait([*loud, shy])

    run(work)


def test_a_place_is_not_lost_when_its_request_is_cancelled_at_that_moment() -> None:
    async def work() -> None:
        places = Places(a=1)
        gate = admission(places)
        held = await gate.enter("x", "a", overloaded)
        leaving = asyncio.create_task(gate.enter("x", "a", overloaded))
        staying = asyncio.create_task(gate.enter("x", "a", overloaded))
        await settled()
        places.give_back(held)
        gate.serve()  # the place is the first one's now, which does not know it yet
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await staying == "a"

    run(work)


@pytest.mark.parametrize("seed", range(5))
def test_every_place_comes_back_whatever_requests_do(seed: int) -> None:
    """Requests that wait, give up, are cut off in any moment, and are refused: at the end all is free."""
    draw = random.Random(seed)

    async def work() -> None:
        places = Places(a=2, b=1)
        gate = admission(places, length=12, seconds=0.02)

        async def request(key: str, kind: str, steps: int) -> None:
            place = await gate.enter(key, kind, overloaded)
            try:
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                places.give_back(place)
                gate.serve()

        tasks: list[asyncio.Task[None]] = []
        for _ in range(400):
            kind, steps = draw.choice("aab"), draw.randrange(6)
            tasks.append(asyncio.create_task(request(draw.choice("xyz"), kind, steps)))
            if draw.random() < 0.5:
                await asyncio.sleep(draw.choice([0, 0, 0, 0.001]))
            if draw.random() < 0.3:
                draw.choice(tasks).cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(e is None or isinstance(e, Unavailable | asyncio.CancelledError) for e in ended)
        assert sum(e is None for e in ended) > 50
        assert places.free == places.most
        assert len(gate) == 0

    run(work)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40), st.integers(0, 20))
def test_the_queue_holds_what_it_took_and_no_more(pushes: list[tuple[str, int]], length: int) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue(length)
    inside: list[tuple[str, tuple[int, int]]] = []
    for number, (key, value) in enumerate(pushes):
        item = (number, value)
        inside.append((key, item))
        queue.push(key, item)
        out = queue.spill(key)
        if out is not None:
            inside.remove(out)
            lines = Counter(k for k, _ in [*inside, out])
            assert lines[out[0]] == max(lines.values())
        assert queue.size == len(inside) <= length
    served: list[tuple[int, int]] = []
    queue.serve(lambda item: not served.append(item))  # type: ignore[func-returns-value]
    assert sorted(served) == sorted(item for _, item in inside)
    assert queue.size == 0
