"""The time that records are sent with, against a broker that refuses what is far from its own clock."""

from hypothesis import given
from hypothesis import strategies as st

from feedback.kafka.sending_time import SendingTime

HOUR, DAY = 3600.0, 24 * 3600.0
NOON = 1_800_000_000.0  # when all clocks agree, the steady one shows 0


class World:
    """A broker with the right time, and a machine whose clock is `off` seconds ahead."""

    def __init__(self, *, oldest: float = 1e18) -> None:
        self.time, self.steady, self.off, self._oldest = SendingTime(), 0.0, 0.0, oldest
        self.sent: list[float] = []  # how far ahead of the broker's clock

    @property
    def wall(self) -> float:
        return NOON + self.steady + self.off

    def send(self, at: float | None = None) -> bool:
        """Send an event that came at `at` by the machine's clock, as the relay does. Whether it is taken."""
        at = self.wall if at is None else at
        while True:
            ahead = self.time.of(at, self.wall, self.steady) - NOON - self.steady
            if -self._oldest <= ahead <= HOUR:
                self.sent.append(ahead)
                self.time.taken(at, self.wall, self.steady)
                return True
            if not self.time.refused():
                return False


def test_an_event_keeps_its_time() -> None:
    world = World()
    assert world.send()
    world.steady = 5.0
    assert world.send(NOON + 2.0)
    assert world.sent == [0.0, -3.0]


def test_a_clock_that_jumps_stops_nothing_once_the_broker_agreed_with_it() -> None:
    world = World()
    assert world.send()
    world.steady, world.off = 100.0, DAY
    assert world.send()
    assert world.sent[-1] == 0.0
    world.steady, world.off = 200.0, 0.0
    assert world.send(world.wall + DAY)  # one that came while the clock was wrong
    assert world.sent[-1] == 0.0
    assert world.send(world.wall - 7.0)
    assert world.sent[-1] == -7.0  # and the machine's clock is trusted again


def test_a_clock_that_was_always_wrong_waits_until_it_is_right() -> None:
    world = World()
    world.off = DAY
    at = world.wall
    assert not world.send(at)
    assert not world.send(at)
    world.off = 0.0
    assert world.send(at)
    assert world.sent == [0.0]


def test_a_machine_that_slept_is_not_stuck_with_its_steady_clock() -> None:
    world = World(oldest=HOUR)
    assert world.send()
    world.steady, world.off = 10.0, DAY
    assert world.send()
    assert world.sent[-1] == 0.0
    world.off = 0.0
    world.time._agreed = NOON - 2 * DAY  # as after two days without the steady clock
    assert world.send() or world.send()
    assert abs(world.sent[-1]) <= HOUR


def test_what_is_too_old_for_the_broker_is_sent_as_of_now() -> None:
    world = World(oldest=HOUR)
    assert world.send()
    assert world.send(NOON - DAY)
    assert world.sent[-1] == 0.0


STEPS = st.tuples(st.floats(0, DAY), st.sampled_from([-DAY, -60.0, 0.0, 600.0, DAY, 30 * DAY]))


@given(oldest=st.sampled_from([HOUR, 1e18]), steps=st.lists(STEPS, max_size=8))
def test_every_event_is_taken_after_one_by_a_right_clock(
    oldest: float, steps: list[tuple[float, float]]
) -> None:
    world = World(oldest=oldest)
    assert world.send()
    for seconds, off in steps:
        world.steady, world.off = world.steady + seconds, off
        assert world.send()
