"""The story of a run: events to series, series to figures, and a page that needs nothing but itself."""

import json
import math
import re
import time
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench._plots import lives
from deploy.evidence.interval import Interval
from deploy.history.releases import Candidate, Decision
from deploy.history.releases import entry as release_entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from deploy.reports.ab_report import Report, Said
from feedback.core.events import FEEDBACK, Feedback, Target
from feedback.core.log import Entry, EventLog
from feedback.kafka.log import KafkaLog
from feedback.kafka.settings import KafkaSettings
from feedback.sqlite.log import SqliteLog
from feedback.updates.series import MOST_POINTS, SERIES, StepFold, mean, thinned
from feedback.updates.steps import StepRecord, step_record
from feedback.updates.steps import entry as step_entry
from hearken.cli import main
from hearken.story import timeline
from hearken.story.charts import Axis, Bar, Estimate, Figure, Flag, Line, axis, drawn, file
from hearken.story.figures import NO_STEPS, NO_VOTES, NOBODY, ONE_STEP, figures
from hearken.story.log import earliest, read_story
from hearken.story.page import MOST_LETTERS, describe, page
from hearken.story.series import Story, begins, told
from tests.feedback.examples import thumb

START = 1_700_000_000.0
MINUTE = 60.0


def record(number: int, at: float, **changed: float | None) -> StepRecord:
    measured: dict[str, float | None] = {
        "kl_nats": 0.1 * number, "kl_budget_nats": 6.0, "reward": number - 5.0, "accuracy": 0.7,
        "entropy_nats": 2.0, "response_tokens": 40.0, "cut_off": 0.25,
    }  # fmt: skip
    return step_record(number, at, "base", 10 * number, **(measured | changed))


def decision(number: int, outcome: Any, version: str, at: float, live: str = "base") -> Decision:
    return Decision(
        event_id=f"d{number}", at=at, number=number, outcome=outcome,
        stage_before="canary", stage_after="idle", version=version, sentence=f"{outcome} {version}.",
        state=ReleaseState(table=RoutingTable(live=live)),
    )  # fmt: skip


def folded(*records: StepRecord) -> StepFold:
    fold = StepFold()
    for each in records:
        fold.add(each)
    return fold


def story(**changed: Any) -> Story:
    """Ten steps and a hundred votes in ten minutes, one promotion, one rollback."""
    said = Said(80, 0.625, Interval(0.5, 0.75), 40, 0.1, Interval(-0.05, 0.25))
    report = Report("policy-1", "base", "promoted", START + 100, START + 600, 50, True, said, {})
    first: dict[str, Any] = {
        "since": START,
        "until": START + 600,
        "live": "policy-1",
        "decisions": [
            decision(1, "promoted", "policy-1", START + 200, "policy-1"),
            decision(2, "harmful", "policy-2", START + 500, "policy-1"),
        ],
        "candidates": [
            Candidate.announce("policy-1", START + 90, parent="base"),
            Candidate.announce("policy-2", START + 300, parent="policy-1"),
        ],
        "steps": folded(*(record(i, START + 60 * i) for i in range(1, 11))),
        "votes": [START + 6 * i for i in range(100)],
        "reports": [report],
    }
    return Story(**(first | changed))


class References(HTMLParser):
    """What a page would fetch, run or send, and how its elements are nested."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "img", "base", "form", "use", "image"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data") or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name == "style" and "url(" in (value or ""):
                self.found.append(f"{tag} {value}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style" and re.search(r"url\(|@import", data):
            self.found.append(data)
        self.texts.append(data)


def parsed(html: str) -> References:
    found = References()
    found.feed(html)
    found.close()
    assert found.open == [], "every element is closed"
    return found


# -- folds ----------------------------------------------------------------------------------------------


def test_of_too_many_steps_the_last_ones_are_kept() -> None:
    fold = StepFold(most=5)
    for number in range(1, 9):
        fold.add(record(number, START + number))
    told = fold.told()
    assert (told["count"], told["first"], told["newest"], told["votes_used"]) == (5, 4, 8, 80)


def test_a_step_counts_once_and_only_in_its_time() -> None:
    fold = StepFold(START, START + 100)
    for each in (record(2, START + 50), record(1, START + 10), record(2, START + 50), record(3, START + 101)):
        fold.add(each)
    found = fold.told()
    assert (found["count"], found["first"], found["newest"], found["votes_used"]) == (2, 1, 2, 20)
    assert found["series"]["kl_nats"] == [[START + 10, 0.1], [START + 50, 0.2]]
    assert found["series"]["reward"] == [[START + 10, -4.0], [START + 50, -3.0]]


def test_what_was_not_measured_is_no_point() -> None:
    found = folded(record(1, START, accuracy=None), record(2, START + 1, kl_budget_nats=math.inf)).told()
    assert found["series"]["accuracy"] == [[START + 1, 0.7]]
    assert found["series"]["kl_budget_nats"] == [[START, 6.0]]


def test_groups_of_steps_have_their_mean_and_of_kl_the_worst() -> None:
    points = [(float(i), float(i % 4)) for i in range(10)]
    assert thinned(points, 4, max) == [[3.0, 3.0], [7.0, 3.0], [9.0, 1.0]]
    assert thinned(points, 4, mean) == [[3.0, 1.5], [7.0, 1.5], [9.0, 0.5]]
    many = folded(*(record(i, START + i) for i in range(10 * MOST_POINTS))).told()
    assert many["steps_per_point"] == 10
    assert all(len(series) == MOST_POINTS for series in many["series"].values())
    assert many["series"]["kl_nats"][0] == [START + 9, 0.9]
    assert many["series"]["reward"][0] == [START + 9, -0.5]


def test_votes_lie_in_bins_that_suit_the_time() -> None:
    assert [timeline.bin_width(span)[1] for span in (600, 86400, 7 * 86400, 400 * 86400)] == [
        "minute", "hour", "day", "week",
    ]  # fmt: skip
    times = [0.0, 59.9, 60.0, 179.0, 500.0]
    assert timeline.binned(times, 0.0, 200.0, 60) == [[0, 2], [60, 1], [120, 1], [180, 0]]
    # A day of someone an hour ahead of UTC begins at 23:00 UTC.
    assert timeline.binned([82_800.0], 0.0, 90_000.0, 86400, 3600) == [[-3600, 0], [82_800, 1]]


def test_time_has_round_ticks() -> None:
    ten = timeline.axis(0.0, 600.0)
    assert ten.ticks[1] == (120, "00:02")
    week = timeline.axis(0.0, 7 * 86400.0, 3600)
    assert week.ticks[0] == (86400 * 2 - 3600, "3 Jan")
    assert len(timeline.axis(5.0, 5.0).ticks) <= 7


def test_a_story_begins_no_earlier_than_its_log() -> None:
    assert begins(None, [30.0, 20.0, math.inf], 100.0) == 20.0
    assert begins(10.0, [30.0, 20.0], 100.0) == 20.0, "or a week's axis would have three minutes of a demo"
    assert begins(25.0, [30.0, 20.0], 100.0) == 25.0
    assert (begins(None, [], 100.0), begins(10.0, [], 100.0)) == (100.0, 10.0)


def test_a_story_is_told_as_json() -> None:
    found = told(story())
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert (found["promotions"], found["rollbacks"]) == (1, 1)
    assert found["line"] == ["base", "policy-1"]
    assert [(each["version"], each["outcome"], each["is_live"]) for each in found["versions"]] == [
        ("policy-1", "promoted", True),
        ("policy-2", "harmful", False),
    ]
    assert found["votes"]["bins"][0][1] + found["votes"]["bins"][1][1] > 0
    assert sum(count for _, count in found["votes"]["bins"]) == 100
    assert set(found["steps"]["series"]) == set(SERIES)


# -- figures --------------------------------------------------------------------------------------------


def test_axes_have_round_ends() -> None:
    assert axis([0.3, 9.2]).ticks[-1] == (10.0, "10")
    assert (axis([0.0]).low, axis([0.0]).high) == (0.0, 1.0)
    assert axis([5.0, 5.0]).high > 5.0
    assert axis([], 0.0, 100.0) == Axis(0.0, 100.0, [(50.0 * n, f"{50 * n}") for n in range(3)])
    assert axis([math.nan, 1.0, 2.0]).low == 1.0


def test_a_figure_draws_what_it_is_given_where_it_belongs() -> None:
    ten = Axis(0.0, 10.0, [(0.0, "zero"), (10.0, "ten")])
    figure = Figure(
        "A <title>", "a & b", ten, ten,
        [Line([(0, 0), (10, 10)]), Line([(5, 5)], 1), Line([])], [Bar(0, 5, 10)],
        [Estimate(5, 2, 4, 6, "<i>")], [Flag(5, True, "<b>up</b>"), Flag(6, False, "down")],
    )  # fmt: skip
    text = drawn(figure)
    assert '<polyline class="line c0" points="52.0,214.0 466.0,34.0"/>' in text
    assert text.count("<polyline") == 1, "a single point is a dot, and none is nothing"
    assert '<circle class="line c1" cx="259.0" cy="124.0" r="3"/>' in text
    assert '<rect class="bar" x="52.0" y="34.0" width="206.0" height="180.0"/>' in text
    assert "A &lt;title&gt;" in text
    assert "&lt;b&gt;up&lt;/b&gt;" in text
    assert "<b>" not in text
    assert parsed(file([figure] * 2)).found == []


def test_a_benchmarks_plot_has_a_line_for_each_seed_and_one_for_the_turn() -> None:
    names = ("votes", "win_rate", "kl_nats", "perplexity_ratio", "promotions")
    seed = [dict.fromkeys(names, float(i)) for i in range(1, 4)]
    text = lives([seed, seed], 2)
    assert parsed(text).found == []
    assert (text.count("<polyline"), text.count('class="line c4 dashed"')) == (4 * 3, 4)


def test_every_figure_says_what_it_shows() -> None:
    shown = {each.figure.title: each for each in figures(told(story()))}
    assert shown["Preferred by people"].sentence.startswith(
        "Newest: policy-1 preferred to base in 62% [50%, 75%] of 80 who chose."
    )
    assert "The highest was 1.00; the budget (dashed) is 6.00 by now." in shown["KL to the base"].sentence
    assert [line.dashed for line in shown["KL to the base"].figure.lines] == [False, True]
    assert (
        "+10 points [-5, +25] against base, 40 users"
        in shown["Thumbs up against the version before"].sentence
    )
    assert "100 votes, at most" in shown["Votes"].sentence
    assert "had used 100 votes" in shown["Votes"].sentence
    assert (
        "The reward model foresees 70% of the votes kept back from it"
        in shown["Reward model's accuracy"].sentence
    )
    for each in shown.values():
        assert each.figure.unit
        assert not each.figure.empty
        assert [flag.up for flag in each.figure.flags] == [True, False]


@pytest.mark.parametrize("steps", [0, 1])
def test_where_there_is_little_to_draw_a_figure_says_so(steps: int) -> None:
    few = story(
        steps=folded(*(record(i, START) for i in range(steps))),
        votes=[],
        reports=[],
        decisions=[],
        candidates=[],
    )
    shown = {each.figure.title: each for each in figures(told(few))}
    assert shown["Preferred by people"].sentence == NOBODY
    assert shown["Votes"].sentence == NO_VOTES
    kl = shown["KL to the base"]
    assert (NO_STEPS in kl.sentence, ONE_STEP in kl.sentence) == (steps == 0, steps == 1)
    assert bool(kl.figure.empty) is (steps == 0)
    assert parsed(page(told(few))).found == []
    assert "no version was offered" in page(told(few))


# -- the page -------------------------------------------------------------------------------------------

EVIL = "</section><script>alert(1)</script><img src=x onerror=alert(1)>"


def demo_run(**changed: Any) -> dict[str, Any]:
    return {
        "live_version": "policy-1",
        "true_win_rate": 0.6312,
        "true_win_rate_standard_error": 0.0241,
        "samples": [{"prompt": EVIL, "base": "b" * (MOST_LETTERS + 5), "live": "& so <on>"}] * 25,
    } | changed


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    evil = story(
        live=EVIL,
        decisions=[decision(1, "promoted", EVIL, START + 200, EVIL)],
        candidates=[Candidate.announce(EVIL, START + 90, parent=EVIL)],
    )
    found = parsed(page(told(evil), demo_run(live_version=EVIL)))
    assert found.found == []
    assert EVIL in found.texts, "as text"
    assert any("5 more letters" in text for text in found.texts)


def test_a_page_has_the_runs_win_rate_and_twenty_questions() -> None:
    text = page(told(story()), demo_run())
    assert "63.1% ± 2.4%" in text
    assert text.count("<section>") == 20
    without = page(told(story()), demo_run(true_win_rate=None, samples=[]))
    assert "true win rate" not in without
    assert "The same questions" not in without


def test_a_page_of_a_busy_week_is_below_two_megabytes() -> None:
    week = 7 * 86400.0
    count = 100_000
    busy = story(
        until=START + week,
        steps=folded(*(record(i, START + i * week / count) for i in range(count))),
        votes=[START + i * week / 200_000 for i in range(200_000)],
        candidates=[Candidate.announce(f"policy-{i}-1c9ab2d4", START + i, parent="base") for i in range(500)],
        decisions=[decision(i, "promoted", f"policy-{i}-1c9ab2d4", START + i) for i in range(1, 500)],
    )
    text = page(told(busy), demo_run(samples=[dict.fromkeys(("prompt", "base", "live"), "&" * 9000)] * 20))
    assert len(text.encode()) < 2_000_000
    assert "400 older versions and 399 older promotions and rollbacks are left out" in text
    assert "A point is the mean of 334 steps." in text


# -- from a log -----------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    (tmp_path / "secret").write_text("s" * 64)
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def any_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """A log of each kind, empty."""
    log: EventLog = SqliteLog(tmp_path / "log.db")
    if request.param == "kafka":
        settings = KafkaSettings(
            request.getfixturevalue("kafka_bootstrap"), prefix=f"{uuid.uuid4().hex[:8]}-"
        )
        log = KafkaLog(log, settings, patience_seconds=60.0)  # type: ignore[arg-type]
    yield log
    log.close()


def vote(number: int, at: float, kind: str = "thumbs") -> Entry:
    event: Feedback = thumb(f"c{number}", 1.0, 1).model_copy(update={"event_id": f"fb-{number}", "at": at})
    if kind == "signal":
        event = event.model_copy(update={"kind": kind, "name": "copied", "label": "yes", "amount": 1.0})
    if kind == "retraction":
        event = event.model_copy(update={"kind": "retraction", "label": "retracted", "retracts": "thumbs"})
    assert event.targets == [Target(completion_id=f"c{number}")]
    return Entry(FEEDBACK, "u", event.model_dump_json().encode())


def written(log: EventLog, now: float) -> None:
    """Two hours ago and now: steps (one told twice), votes (one changed, one taken back), a promotion."""
    old = now - 7200
    entries = [
        step_entry(record(1, old)),
        *[step_entry(record(2, now - 60))] * 2,
        step_entry(record(3, now - 30)),
    ]
    entries += [
        vote(1, old),
        vote(2, now - 50),
        vote(2, now - 40),
        vote(3, now - 30),
        vote(1, now, "retraction"),
        vote(4, now - 25, "signal"),  # which is no vote
    ]
    entries += [
        Entry(FEEDBACK, "u", b"{"),
        Entry("updates", "steps", b"[]"),
        Entry("updates", "updates", b"{}"),
    ]
    entries += [
        release_entry(Candidate.announce("policy-1-aa", now - 55, parent="base")),
        release_entry(decision(1, "promoted", "policy-1-aa", now - 20, "policy-1-aa")),
    ]
    log.append(entries).result()


def test_a_story_is_read_once_from_the_log(any_log: EventLog) -> None:
    log, now = any_log, time.time()
    written(log, now)
    found = read_story(log, now - 3600, 60.0)
    assert (found.since, found.live, found.complete) == (now - 3600, "policy-1-aa", True)
    assert found.steps.told()["count"] == 2
    assert sorted(found.votes) == [pytest.approx(now - 50), pytest.approx(now - 30)]
    assert [each.outcome for each in found.decisions] == ["promoted"]
    whole = read_story(log, None, 60.0)
    assert whole.since == pytest.approx(now - 7200, abs=0.01)
    assert (whole.steps.told()["count"], len(whole.votes)) == (3, 3)


def test_an_empty_log_has_a_story_too(log: SqliteLog) -> None:
    found = told(read_story(log, None, 10.0))
    assert (found["since"], found["live"]) == (found["until"], "base")
    assert parsed(page(found)).found == []
    assert describe(found)[1] == "live        base, from base"


def test_the_earliest_of_cursors_is_read_from() -> None:
    assert earliest([{"a/0": 5, "b/0": 1, "a#": 7}, {"a/0": 2, "b/0": 9, "a#": 7}]) == {
        "a/0": 2,
        "b/0": 1,
        "a#": 7,
    }
    assert earliest([{"a/0": 5, "a#": 7}, {"a/0": 2, "a#": 8}]) == {}, "another topic of that name"
    assert earliest([{"a/0": 5}, {}]) == {}


def test_the_command_prints_lines_and_json_and_writes_a_page(
    log: SqliteLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(log, time.time())
    data = ["--data", str(tmp_path)]
    assert main(["report", *data]) == 0
    said = capsys.readouterr().out
    assert "releases    1 promotions, 0 rollbacks, 0 inconclusive, 0 refused" in said
    assert "steps       3 (1 to 3)" in said
    assert main(["report", *data, "--since", "1h", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"]["count"] == 2
    out = tmp_path / "out.html"
    assert main(["report", *data, "--html", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert parsed(out.read_text()).found == []
    assert main(["report", *data, "--html", "--out", str(tmp_path / "no" / "out.html")]) == 1
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
    for wrong in (["--since", "7 days"], ["--since", "0d"], ["--json", "--html"]):
        with pytest.raises(SystemExit) as refused:
            main(["report", *data, *wrong])
        assert refused.value.code == 2
