"""Stages of releases over time."""

from deploy.history.releases import Decision
from deploy.history.states import Outcome, ReleaseState, Stage
from deploy.history.table import RoutingTable
from deploy.reports.timeline import Span, spans

NEW, OLD = "policy-4-1c9ab2d4", "policy-3-77777777"
IDLE = RoutingTable(live=OLD)
SMALL = RoutingTable(epoch=1, live=OLD, canary=NEW, control=OLD, weight=0.05)
LARGE = RoutingTable(epoch=2, live=OLD, canary=NEW, control=OLD, weight=0.25)
HELD = RoutingTable(epoch=3, live=NEW, canary=NEW, control=OLD, weight=0.1)


def decision(number: int, outcome: Outcome, after: Stage, table: RoutingTable) -> Decision:
    return Decision(
        event_id=f"d{number}", at=10.0 * number, number=number, outcome=outcome, version=NEW, sentence="So.",
        stage_before="idle", stage_after=after, state=ReleaseState(table=table),
    )  # fmt: skip


def test_time_is_divided_where_somebody_else_is_served() -> None:
    told = spans(
        [
            decision(1, "begun", "idle", IDLE),
            decision(2, "accepted", "idle", IDLE),  # changes nothing for anybody
            decision(3, "started", "canary", SMALL),
            decision(4, "paused", "canary", SMALL),
            decision(5, "raised", "canary", LARGE),
            decision(6, "promoted", "holdback", HELD),
            decision(7, "finished", "idle", RoutingTable(epoch=4, live=NEW)),
        ]
    )
    assert told == [
        Span(10, 30, "idle", OLD, None, None, 0, "started"),
        Span(30, 50, "canary", OLD, NEW, OLD, 0.05, "raised"),
        Span(50, 60, "canary", OLD, NEW, OLD, 0.25, "promoted"),
        Span(60, 70, "holdback", NEW, None, OLD, 0.1, "finished"),
        Span(70, None, "idle", NEW, None, None, 0, None),
    ]


def test_a_service_of_which_nothing_was_decided_has_no_stages() -> None:
    assert spans([]) == []
