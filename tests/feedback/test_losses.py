"""Where a reader goes on when what it was to read is gone, and that it goes on only when it may."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from feedback.core.loss_metrics import LossMetrics
from feedback.core.losses import Loss, Losses, Span, accept, onward

FIRST, OTHER = 111, 222  # identities of the topic and of one that was made anew under its name


def at(*offsets: int, identity: int = FIRST) -> dict[str, int]:
    """The cursor of a reader that has read so far."""
    return {f"votes/{n}": offset for n, offset in enumerate(offsets)} | {"votes#": identity}


def test_a_reader_that_begins_begins_with_what_is_left() -> None:
    after, loss = onward("votes", FIRST, [Span(3, 10), Span(0, 0)], {}, refused=False)
    assert (after, loss) == (at(3, 0), None)


def test_a_reader_goes_on_where_it_stands() -> None:
    spans = [Span(3, 10), Span(0, 0)]
    for cursor in (at(5, 0), at(3, 0), at(10, 0)):
        assert onward("votes", FIRST, spans, cursor, refused=False) == (cursor, None)


def test_a_cursor_of_before_topics_had_identities_gets_one() -> None:
    assert onward("votes", FIRST, [Span(3, 10)], {"votes/0": 5}, refused=False) == (at(5), None)
    assert onward("votes", 0, [Span(3, 10)], {"votes/0": 5}, refused=False) == ({"votes/0": 5}, None)


def test_what_retention_deleted_is_counted() -> None:
    spans = [Span(600, 1000), Span(20, 50)]
    after, loss = onward("votes", FIRST, spans, at(100, 30), refused=False)
    assert after == at(600, 30)
    assert loss is not None
    assert (loss.reason, loss.records) == ("retention", 500)
    assert "500 records of votes were deleted by the broker before they were read" in loss.sentence


def test_a_topic_that_was_made_anew_is_told_by_its_identity_and_read_from_its_beginning() -> None:
    for spans in ([Span(0, 0)], [Span(0, 3000)]):  # shorter than what was read, and longer
        after, loss = onward("votes", OTHER, spans, at(2000), refused=False)
        assert after == at(0, identity=OTHER)
        assert loss is not None
        assert loss.reason == "made anew"
        assert loss.records > 0


def test_a_cursor_beyond_the_end_is_a_loss_only_where_the_broker_refuses_it() -> None:
    assert onward("votes", FIRST, [Span(0, 90)], at(100), refused=False) == (at(100), None)
    after, loss = onward("votes", FIRST, [Span(0, 90)], at(100), refused=True)
    assert after == at(90)
    assert loss is not None
    assert (loss.reason, loss.records) == ("cut off", 10)
    after, loss = onward("votes", OTHER, [Span(0, 90)], {"votes/0": 100}, refused=True)
    assert after == at(0, identity=OTHER)
    assert loss is not None
    assert loss.reason == "made anew"


def test_a_partition_that_was_added_is_read_from_its_first_record() -> None:
    after, loss = onward("votes", FIRST, [Span(0, 9), Span(0, 4)], at(9), refused=False)
    assert (after, loss) == (at(9, 0), None)
    _, loss = onward("votes", FIRST, [Span(0, 9), Span(2, 4)], at(9), refused=False)
    assert loss is not None
    assert loss.records == 2


@given(
    spans=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=4),
    read=st.lists(st.integers(0, 120), min_size=4, max_size=4),
    identity=st.sampled_from([FIRST, OTHER]),
    refused=st.booleans(),
)
def test_a_reader_never_goes_past_a_record_that_is_there_in_silence(
    spans: list[tuple[int, int]], read: list[int], identity: int, refused: bool
) -> None:
    held = [Span(first, first + count) for first, count in spans]
    cursor = at(*read[: len(held)])
    after, loss = onward("votes", identity, held, cursor, refused=refused)
    if loss is None:
        assert identity == FIRST
        assert after == cursor
        assert all(cursor[f"votes/{n}"] >= span.first for n, span in enumerate(held))
    again, none = onward("votes", identity, held, after, refused=refused)  # it is where it said
    assert (again, none and none.reason) == (after, None)


def test_reading_stands_still_until_the_loss_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="feedback")
    losses, metrics = Losses(tmp_path), LossMetrics(registry := CollectorRegistry())

    class Log:
        """As far as the metrics look at one."""

    log = Log()
    log.losses = losses  # type: ignore[attr-defined]

    def shown() -> tuple[float | None, float | None]:
        metrics.show(log)  # type: ignore[arg-type]
        lost = registry.get_sample_value("hearken_log_lost_records_total", {"topic": "votes"})
        labels = {"topic": "votes", "reason": "retention"}
        return lost, registry.get_sample_value("hearken_log_loss_standing", labels)

    def met(offset: int) -> list[Loss]:
        loss = onward("votes", FIRST, [Span(600, 1000)], at(offset), refused=False)[1]
        return [loss] if loss else []

    assert losses.may_pass(["votes"], met(600))
    assert shown() == (None, None)
    for _ in range(3):
        assert not losses.may_pass(["votes"], met(100))
        assert shown() == (500, 1)
    (told,) = (record.getMessage() for record in caplog.records)
    code = met(100)[0].code
    assert f"`hearken accept-loss {code} --data {tmp_path}`" in told
    accept(tmp_path, met(200)[0].code)  # another loss
    assert not losses.may_pass(["votes"], met(100))
    accept(tmp_path, code)
    assert losses.may_pass(["votes"], met(100))
    assert shown() == (500, None)
    assert losses.may_pass(["votes"], met(600))
