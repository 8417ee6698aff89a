"""What people think of a version against the one before, counted anew from the log."""

import pytest

from deploy.history.releases import read_history
from deploy.reports.ab_report import NoRelease, report
from tests.deploy.world import MakeWorld, World

PATIENCE_SECONDS = 60.0


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def test_a_report_counts_canary_and_holdback_and_says_what_may_be_true(world: World) -> None:
    better = world.offer().version
    world.taste = lambda served: 0.9 if served == better else 0.4
    world.pass_time(until="promoted")
    early = report(world.log, read_history(world.log), None, PATIENCE_SECONDS)
    assert (early.version, early.against, early.outcome, early.complete) == (better, "base", "promoted", True)
    assert early.exposed >= 50
    assert early.users.thumbs_interval is not None
    assert early.users.thumbs_interval.low > 0, "that is why it was promoted"
    assert (early.users.compared, early.users.preferred_interval) == (0, None), "nobody was asked to choose"
    for _ in range(8):
        world.chat(200)
        world.now += 5.0
        world.tick()
    late = report(world.log, read_history(world.log), better, PATIENCE_SECONDS)
    assert late.users.matched > early.users.matched
    found = late.users.thumbs_interval
    assert found is not None
    assert found.low < 0.5 < found.high, "which is the truth"
    assert found.high - found.low < early.users.thumbs_interval.high - early.users.thumbs_interval.low


def test_without_a_canary_there_is_nothing_to_report(world: World) -> None:
    world.tick()
    with pytest.raises(NoRelease, match="no canary began yet"):
        report(world.log, read_history(world.log), None, PATIENCE_SECONDS)
    with pytest.raises(NoRelease, match="no canary of 'policy-9' began"):
        report(world.log, read_history(world.log), "policy-9", PATIENCE_SECONDS)
