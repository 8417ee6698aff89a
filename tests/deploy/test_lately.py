"""What changed within the last day, in a sentence, and the line that live grew from."""

from deploy.history.table import RoutingTable
from deploy.reports.lately import DAY_SECONDS, lately, line_of
from tests.deploy.test_plain_words import NEW, OLD, decision

TABLE = RoutingTable(live=NEW)


def test_a_day_is_told_in_a_sentence() -> None:
    decisions = [
        decision(1, "harmful", OLD, TABLE),  # two days ago
        decision(101, "started", NEW, TABLE),
        decision(102, "raised", NEW, TABLE),  # a step of a trial is no news by itself
        decision(103, "promoted", NEW, TABLE),
        decision(104, "refused", "policy-5-0", TABLE),
        decision(105, "refused", "policy-6-0", TABLE),
        decision(106, "paused", None, TABLE),
        decision(107, "paused", None, TABLE),
    ]
    assert lately(1204, decisions, DAY_SECONDS + 101) == (
        f"Within the last day: 1,204 votes; {NEW} was put on trial; {NEW} was promoted; "
        "2 versions were refused before any trial; releases were paused 2 times."
    )


def test_a_quiet_day_and_one_of_which_not_all_is_known() -> None:
    assert lately(1, [], 0.0) == "Within the last day: 1 vote; nothing was decided."
    assert lately(0, [], 0.0, complete=False).startswith("Within the last day, at least: 0 votes; ")


def test_the_line_of_live_ends_where_nobody_knows_more() -> None:
    assert line_of("c", {"c": "b", "b": "base"}) == ["base", "b", "c"]
    assert line_of("c", {"c": None}) == ["c"]
    assert line_of("c", {"c": "b", "b": "c"}) == ["b", "c"]
