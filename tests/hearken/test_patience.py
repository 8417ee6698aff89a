"""Work that needs an engine, beside an engine that ends, starts again, or never comes back."""

import threading
from collections.abc import Callable, Iterator

import pytest

from deploy.engines.client import EngineClient, EngineDown, EngineError
from hearken.demo.patience import ATTEMPTS, Patience
from tests.deploy.fake_engine import FakeEngine


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.stop()


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def patience(engine: FakeEngine, stopping: threading.Event, said: list[str]) -> Callable[..., Patience]:
    def make(goes_on: Callable[[], bool] = lambda: True, seconds: float = 60.0) -> Patience:
        return Patience(engine.url, goes_on, stopping, said.append, seconds)

    return make


def base() -> str:
    return "base"


def test_an_engine_that_is_there_is_asked_at_once(patience: Callable[..., Patience], said: list[str]) -> None:
    assert patience().ask(base, lambda version: f"asked {version}") == "asked base"
    assert said == []


def test_what_an_engine_s_end_broke_off_is_begun_again(
    engine: FakeEngine, patience: Callable[..., Patience], said: list[str]
) -> None:
    down = threading.Event()
    client = EngineClient(engine.url)

    def goes_on() -> bool:  # as the supervisor does it: what ended is started again
        if down.is_set():
            down.clear()
            engine.start()
        return True

    attempts = []

    def work(version: str) -> list[str]:
        attempts.append(version)
        if len(attempts) == 1:
            engine.stop()
            down.set()
            raise EngineDown("it was killed")
        return client.models()

    assert patience(goes_on).ask(base, work) == ["base"]
    assert attempts == ["base", "base"]
    assert "it was killed" in said[0]


def test_a_policy_that_the_engine_does_not_have_yet_is_waited_for(
    engine: FakeEngine, patience: Callable[..., Patience], said: list[str]
) -> None:
    looks = []

    def goes_on() -> bool:
        looks.append(1)
        if len(looks) == 2:
            engine.loaded["policy-1"] = b""  # the controller has loaded it
        return True

    assert patience(goes_on).ask(lambda: "policy-1", lambda version: version) == "policy-1"
    assert len(said) == 1
    assert "policy-1" in said[0]


@pytest.mark.parametrize(("goes_on", "seconds"), [(False, 60.0), (True, 0.0)], ids=["failed", "too late"])
def test_nobody_waits_for_an_engine_that_does_not_come_back(
    goes_on: bool, seconds: float, engine: FakeEngine, patience: Callable[..., Patience]
) -> None:
    engine.loaded.clear()
    assert patience(lambda: goes_on, seconds).ask(lambda: "policy-1", lambda version: version) is None


def test_an_engine_that_fails_every_time_is_given_up(
    patience: Callable[..., Patience], said: list[str]
) -> None:
    def work(version: str) -> str:
        raise EngineError("500")

    assert patience().ask(base, work) is None
    assert len(said) == ATTEMPTS


def test_who_wants_to_stop_does_not_wait_for_the_work(
    patience: Callable[..., Patience], stopping: threading.Event
) -> None:
    release = threading.Event()

    def work(version: str) -> bool:
        stopping.set()
        return release.wait(60)

    assert patience().ask(base, work) is None
    release.set()


def test_a_mistake_in_the_work_is_not_hidden(patience: Callable[..., Patience]) -> None:
    def work(version: str) -> str:
        raise KeyError(version)

    with pytest.raises(KeyError):
        patience().ask(base, work)
