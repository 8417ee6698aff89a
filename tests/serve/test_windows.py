"""Sliding-window counters: one contract for those of a process and those in Redis, and what they promise."""

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from serve.auth.windows import LocalWindows, RedisWindows, Window, Windows
from tests.servers import RedisServer, need

SECONDS = 60  # no window ends while a test counts, on no machine
Make = Callable[..., Windows]


def counter() -> Counter:
    return Counter("alone", "", registry=CollectorRegistry())


@pytest.fixture(params=["local", pytest.param("redis", marks=pytest.mark.redis)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes one; all that Redis ones count goes to the same server, which may take its time."""
    if request.param == "local":
        return lambda seconds=SECONDS: LocalWindows(seconds)
    url = request.getfixturevalue("redis_url")
    return lambda seconds=SECONDS: RedisWindows(url, counter(), seconds, timeout_seconds=20.0)


def fresh() -> str:
    return f"test/{uuid.uuid4().hex}"


def test_a_limit_is_taken_one_by_one_and_then_refused(make: Make) -> None:
    async def story() -> None:
        windows, name = make(), fresh()
        assert await windows.look(name) == [Window(seconds=SECONDS)]
        assert [await windows.take(name, 3) for _ in range(5)] == [True] * 3 + [False] * 2
        (window,) = await windows.look(name)
        assert (window.current, window.remaining(3), window.remaining(10)) == (3, 0, 7)
        assert 0 < window.wait(3) <= SECONDS
        assert window.wait(4) == 0
        assert SECONDS < window.empty_in() <= 2 * SECONDS

    asyncio.run(story())


def test_several_are_taken_together_or_not_at_all(make: Make) -> None:
    async def story() -> None:
        windows, name = make(), fresh()
        assert [await windows.take(name, 10, amount) for amount in (6, 5, 4, 1)] == [True, False, True, False]
        (window,) = await windows.look(name)
        assert window.current == 10

    asyncio.run(story())


def test_what_is_added_counts_whatever_the_limit(make: Make) -> None:
    async def story() -> None:
        windows, name, other = make(), fresh(), fresh()
        await windows.add(name, 1_000_000)
        assert not await windows.take(name, 10)
        mine, others = await windows.look(name, other)
        assert (mine.current, mine.remaining(10), others.current) == (1_000_000, 0, 0)
        assert mine.wait(10) > SECONDS  # a debt is paid off slowly

    asyncio.run(story())


def test_there_is_room_when_the_wait_is_over(make: Make) -> None:
    async def story() -> None:
        windows, name = make(2), fresh()
        while await windows.take(name, 4):
            pass
        (window,) = await windows.look(name)
        await asyncio.sleep(window.wait(4) + 0.05)
        assert await windows.take(name, 4)

    asyncio.run(story())


def test_many_at_once_get_exactly_the_limit(make: Make) -> None:
    async def story() -> None:
        windows, name = make(), fresh()
        taken = await asyncio.gather(*(windows.take(name, 20) for _ in range(50)))
        assert sum(taken) == 20

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(20))
def test_the_wait_is_exact_and_a_minute_never_has_twice_the_limit(seed: int) -> None:
    draw = random.Random(seed)
    now = 0.0
    limit = draw.randint(1, 30)
    windows, taken = LocalWindows(60, lambda: now), list[float]()

    async def story() -> None:
        nonlocal now
        for _ in range(500):
            now += draw.expovariate(limit / 60 * draw.choice([0.3, 3, 30]))
            (window,) = await windows.look("a")
            wait = window.wait(limit)
            if await windows.take("a", limit):
                assert wait == 0
                taken.append(now)
            else:
                assert 0 < wait <= 60
                before = now
                now = before + wait - 1e-6
                assert (await windows.look("a"))[0].used >= limit
                now = before + wait + 1e-6
                assert (await windows.look("a"))[0].used < limit
                now = before

    asyncio.run(story())
    busiest = max(sum(start <= at < start + 60 for at in taken) for start in taken)
    assert limit * 0.9 <= busiest < 2 * limit or limit < 3


def test_counters_that_nobody_uses_any_more_are_forgotten() -> None:
    now = 0.0
    windows = LocalWindows(60, lambda: now)

    async def story() -> None:
        nonlocal now
        for i in range(20_000):
            now += 0.1
            await windows.take(f"user-{i}", 5)

    asyncio.run(story())
    assert len(windows._counters) < 1200 + 4096 + 1


@pytest.fixture
def server() -> Iterator[RedisServer]:
    need("redis-server")
    started = RedisServer()
    started.start()
    yield started
    started.stop()


@pytest.mark.redis
def test_without_redis_each_counts_for_itself_and_says_so(server: RedisServer) -> None:
    async def story() -> None:
        alone = counter()
        one, two = (RedisWindows(server.url, c, SECONDS, timeout_seconds=20.0) for c in (alone, counter()))
        name = fresh()
        assert await one.take(name, 1)
        assert not await two.take(name, 1)
        server.stop()
        assert [await w.take(name, 1) for w in (one, two, one, two)] == [True, True, False, False]
        assert (await one.look(name))[0].current == 1
        assert alone.collect()[0].samples[0].value == 3
        server.start()
        later = fresh()
        for _ in range(400):
            await one.take(later, 10_000)
            if (await two.look(later))[0].current:
                return
            await asyncio.sleep(0.05)
        pytest.fail("Redis is back, and its counters are not shared")

    asyncio.run(story())
