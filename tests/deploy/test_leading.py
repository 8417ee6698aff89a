"""The lease: one leads, the next one takes over in time, and fences rise whatever happens to the store."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.controller.leading import KEY, LEASE_SECONDS, RENEW_SECONDS, Alone, Lease, Record, claim
from feedback.shared import SharedStore, SharedUnavailable, SqliteStore


def test_who_may_write_the_record() -> None:
    mine, theirs = Record(holder="me", fence=4, beat=9), Record(holder="you", fence=4, beat=9)
    assert claim(None, "me", 0, silent=False) == Record(holder="me", fence=1)
    assert claim(mine, "me", 4, silent=False) == Record(holder="me", fence=4, beat=10)
    assert claim(theirs, "me", 0, silent=False) is None
    assert claim(theirs, "me", 0, silent=True) == Record(holder="me", fence=5)
    assert claim(Record(fence=4), "me", 0, silent=False) == Record(holder="me", fence=5), "given back"


def test_a_store_that_lost_its_memory_gives_no_fence_that_the_log_has() -> None:
    assert claim(None, "me", 17, silent=False) == Record(holder="me", fence=18)
    assert claim(Record(holder="me", fence=3), "me", 17, silent=False) == Record(holder="me", fence=18)


def test_a_standby_takes_over_within_five_seconds() -> None:
    assert LEASE_SECONDS + 2 * RENEW_SECONDS < 4, "a second is left for reading and deciding"
    assert LEASE_SECONDS >= 4 * RENEW_SECONDS, "some renewals may fail"


class Cut:
    """A store that can be out of one process's reach."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self.away = False

    def __getattr__(self, name: str) -> object:
        if self.away:
            raise SharedUnavailable("out of reach")
        return getattr(self._store, name)


class Group:
    """Some controllers' leases on one store, in a time that moves when a test moves it."""

    def __init__(self, store: SharedStore, size: int = 2) -> None:
        self.service = uuid.uuid4().hex
        self.store = store
        self.now = 100.0
        self.cuts = [Cut(store) for _ in range(size)]
        self.leases = [self.new(cut) for cut in self.cuts]

    def new(self, cut: Cut) -> Lease:
        return Lease(cut, self.service, clock=lambda: self.now)  # type: ignore[arg-type]

    def fences(self, seen: int = 0) -> list[int | None]:
        return [lease.fence(seen) for lease in self.leases]

    def wait(self, seconds: float, *renewing: int) -> None:
        """Let time pass while some of them renew or look as they do."""
        end = self.now + seconds
        while self.now < end:
            for number in renewing:
                self.leases[number].renew()
            self.now += RENEW_SECONDS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStore]:
    store = SqliteStore(tmp_path_factory.mktemp("leases") / "shared.db")
    yield store
    store.close()


@pytest.fixture
def group(store: SharedStore) -> Group:
    return Group(store)


def test_one_leads_and_goes_on_leading(group: Group) -> None:
    assert group.fences() == [None, None], "nobody has asked yet"
    group.wait(20, 0, 1)
    assert group.fences() == [1, None]
    assert group.leases[0].fence(1) == 1


def test_the_standby_takes_over_from_one_that_is_silent(group: Group) -> None:
    group.wait(1, 0, 1)
    dead_at = group.now
    while group.leases[1].fence(0) is None:
        group.wait(RENEW_SECONDS, 1)
    assert group.now - dead_at <= LEASE_SECONDS + 2 * RENEW_SECONDS
    assert group.fences() == [None, 2], "the first one's own time is over as well"
    group.leases[0].renew()
    assert group.fences() == [None, 2]


def test_who_begins_waits_for_one_that_died_before(group: Group) -> None:
    group.leases[0].renew()
    group.now += 1000  # nobody saw it die
    group.leases[1].renew()
    assert group.leases[1].fence(0) is None, "it has been seen for no time yet"
    group.wait(LEASE_SECONDS + RENEW_SECONDS, 1)
    assert group.leases[1].fence(0) == 2


def test_a_lease_that_is_given_back_is_taken_at_once(group: Group) -> None:
    group.wait(1, 0, 1)
    group.leases[0].give_back()
    group.leases[1].renew()
    assert group.fences() == [None, 2]
    group.leases[0].give_back()
    group.leases[1].renew()
    assert group.fences() == [None, 2], "it was another's by then"


def test_a_holder_goes_on_while_the_store_is_away_for_all(group: Group) -> None:
    group.wait(1, 0, 1)
    for cut in group.cuts:
        cut.away = True
    group.wait(60, 0, 1)
    assert group.fences() == [1, None]
    for cut in group.cuts:
        cut.away = False
    group.wait(10, 1, 0)
    assert group.fences() == [1, None], "nobody could renew: that was no silence"


def test_a_holder_that_alone_lost_the_store_is_replaced_by_what_the_log_says(group: Group) -> None:
    group.wait(1, 0, 1)
    group.cuts[0].away = True
    group.wait(10, 0, 1)
    assert group.fences() == [1, 2], "until the new one has decided something"
    assert group.fences(seen=2) == [None, 2]
    group.cuts[0].away = False
    group.wait(10, 0, 1)
    assert group.fences(seen=2) == [None, 2]


def test_a_store_that_forgot_all_has_one_leader_with_a_higher_fence(group: Group) -> None:
    group.wait(1, 0, 1)
    assert group.fences(seen=1) == [1, None]
    group.store.delete(KEY + group.service)
    group.wait(2, 1, 0)
    assert group.fences(seen=1) == [None, 2]


def test_a_record_that_cannot_be_read_counts_for_none(group: Group) -> None:
    group.store.put(KEY + group.service, b"{", 60)
    group.leases[0].renew()
    assert group.fences() == [1, None]


def test_services_on_one_store_do_not_meet(store: SharedStore) -> None:
    one, two = Group(store), Group(store)
    one.wait(1, 0)
    two.wait(1, 0)
    assert (one.fences(), two.fences()) == ([1, None], [1, None])


def test_a_lease_works_in_a_thread_and_is_given_back_at_the_end(store: SharedStore, tmp_path: Path) -> None:
    service = uuid.uuid4().hex
    standby = Lease(store, service)
    with Lease(store, service) as lease:
        while lease.fence(0) is None:
            pass
        standby.renew()
        assert standby.fence(0) is None
    standby.renew()
    assert standby.fence(0) == 2


def test_without_a_lease_one_always_leads() -> None:
    assert Alone().fence(17) == 0


HAPPENING = st.one_of(
    st.tuples(st.just("renew"), st.integers(0, 2)),
    st.tuples(st.just("pass"), st.floats(0, 2 * LEASE_SECONDS)),
    st.tuples(st.just("back"), st.integers(0, 2)),
    st.tuples(st.just("anew"), st.integers(0, 2)),
)


@given(st.lists(HAPPENING, max_size=60))
def test_never_do_two_lead_and_fences_rise(store: SharedStore, events: list[tuple[str, float]]) -> None:
    """Whoever looks when, and stops for however long."""
    group, highest, led_by = Group(store, 3), 0, None
    for what, value in events:
        if what == "pass":
            group.now += value
        elif what == "renew":
            group.leases[int(value)].renew()
        elif what == "back":
            group.leases[int(value)].give_back()
        else:  # killed, and started anew
            group.leases[int(value)] = group.new(group.cuts[int(value)])
        leading = [(lease, fence) for lease in group.leases if (fence := lease.fence(0)) is not None]
        assert len(leading) <= 1
        for lease, fence in leading:
            assert fence >= highest
            assert fence > highest or lease is led_by, "no two have one number"
            highest, led_by = fence, lease
