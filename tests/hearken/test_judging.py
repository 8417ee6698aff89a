"""A judge model votes on the log's pairs: by what it says in both orders, once each, whatever is away."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.core.events import FEEDBACK, Completion
from feedback.core.ids import Signer
from feedback.core.secret import load_secret
from feedback.joining.join import Joiner
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from hearken.ai_judge import (
    CannotJudge,
    JudgeAway,
    JudgeSettings,
    Messages,
    PairJudge,
    make_judge,
    read_principles,
    verdict,
)
from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.data.judging import ALONE, GONE, REFUSED, UNDECIDED, Judging
from tests.feedback.examples import completion
from tests.hearken.chat_api import ChatApi, serving
from tests.hearken.logs import opened, votes, write


class Server(ChatApi):
    """A model that prefers the answer with the longer word of praise."""

    asked: list[dict[str, Any]]
    status, logprobs, refuses_logprobs, always = 200, True, False, ""

    def answered(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        self.asked.append(body | {"key": authorization})
        said = body["messages"][-1]["content"]
        first, second = (said.split(f'number="{n}">')[1].split("</answer>")[0].count("good") for n in (1, 2))
        word = self.always or ("1" if first > second else "2")
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": word}}
        if self.logprobs:
            top = [{"token": word, "logprob": -0.1}, {"token": "12"[word == "1"], "logprob": -2.4}]
            choice["logprobs"] = {"content": [{"token": word, "logprob": -0.1, "top_logprobs": top}]}
        refused = self.refuses_logprobs and "logprobs" in body
        said = {"choices": [choice]} if self.status == 200 else {"error": "no"}
        return 400 if refused else self.status, said


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        server.asked = []
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    load_secret(tmp_path / "secret")
    return tmp_path


def side(number: int, role: str, text: str, **changes: Any) -> Completion:
    made = completion(f"{role}-{number}", role=role)
    choice = made.choices[0].model_copy(update={"text": text})
    return made.model_copy(update={"comparison_id": f"cmp-{number}", "choices": [choice], **changes})


def settings(data: Path, server: Server, **changes: Any) -> JudgeSettings:
    return replace(JudgeSettings(data=data, url=server.url, model="judge-7b"), **changes)


def pair(number: int, better: str = "answer") -> tuple[Completion, Completion]:
    sides = (side(number, role, "good" if role == better else "bad") for role in ("answer", "reference"))
    return next(sides), next(sides)


@pytest.fixture
def judge_of(data: Path, server: Server) -> Iterator[Callable[..., Judging]]:
    """Makes a judge that reads the log in `data` from where the one before it had come to."""
    with opened(data) as log:

        def make(**changes: Any) -> Judging:
            signer = Signer(load_secret(data / "secret"))
            judge = make_judge(settings(data, server, **changes))
            return Judging(log(), open_sealer(data), signer, judge, data / "judge.json")

        yield make


def test_each_pair_gets_one_vote_of_the_model_which_is_joined_like_any(data: Path, server: Server) -> None:
    write(data, *pair(0), *pair(1, "reference"), completion("alone"))
    command = ["judge", "--data", str(data), "--url", server.url, "--model", "judge-7b", "--once"]
    assert main(command) == 0
    found = votes(data)
    assert {(vote.label, round(vote.value, 3)) for vote in found} == {("a", 0.909), ("b", 0.091)}
    assert {(vote.source, vote.rater) for vote in found} == {("model", found[0].rater)}
    asked = len(server.asked)
    assert asked == 4  # both orders of two pairs
    assert main(command) == 0
    assert (len(votes(data)), len(server.asked)) == (2, asked)  # it went on from where it was
    log, joiner = SqliteLog(data / "log.db"), Joiner()
    records, _ = log.read(["completions", FEEDBACK], {}, 1000)
    log.close()
    labels = joiner.feed(records)
    assert [(label.kind, label.source) for label in labels] == [("comparison", "model")] * 2


def test_a_server_without_logprobs_is_taken_at_its_word(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    server.logprobs = False
    write(data, *pair(0))
    judge_of().turn(0.0)
    assert [vote.value for vote in votes(data)] == [1.0]
    server.refuses_logprobs = True
    write(data, *pair(1), *pair(2))
    judge_of(concurrency=1).turn(0.0)
    assert [vote.value for vote in votes(data)] == [1.0] * 3
    assert sum("logprobs" in body for body in server.asked) == 2 + 1  # it asks for them no more


def test_it_is_told_principles_model_and_key(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    (data / "principles.txt").write_text("It rhymes.\n\nIt is short.\n")
    (data / "key").write_text("sk-secret\n")
    write(data, *pair(0))
    judge_of(principles=data / "principles.txt", key_file=data / "key").turn(0.0)
    for body in server.asked:
        assert body["key"] == "Bearer sk-secret"
        assert body["model"] == "judge-7b"
        assert "- It rhymes.\n- It is short." in body["messages"][0]["content"]
        assert "Where is my parcel?" in body["messages"][1]["content"]


def test_a_judge_that_prefers_what_it_reads_first_has_no_vote(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    server.always = "1"
    write(data, *pair(0))
    judging = judge_of()
    judging.turn(0.0)
    assert (votes(data), judging.progress.skipped) == ([], {UNDECIDED: 1})


def test_what_was_not_kept_and_what_a_judge_refuses_is_skipped_and_told(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    write(data, side(0, "answer", ""), side(0, "reference", "good"))
    judging = judge_of()
    judging.turn(0.0)
    assert judging.progress.lines() == ["0 pairs judged", f"1 skipped: {GONE}"]
    write(data, *pair(1), *(each.model_copy(update={"user": "u_bob"}) for each in pair(2)))
    assert open_sealer(data).erase("default", "u_bob")
    server.status = 400
    judging.turn(0.0)
    assert judging.progress.skipped == {GONE: 2, REFUSED: 1}
    server.always, server.status = "neither", 200
    write(data, *pair(3))
    judging.turn(0.0)
    assert judging.progress.skipped[REFUSED] == 2
    assert not votes(data)


def test_pairs_wait_while_the_judge_is_away(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    server.status = 503
    write(data, *pair(0))
    judging = judge_of()
    for _ in range(2):
        with pytest.raises(JudgeAway, match="answered 503"):
            judging.turn(0.0)
    assert not (data / "judge.json").exists()
    server.status = 200
    judging.turn(0.0)
    assert len(votes(data)) == 1
    command = ["judge", "--data", str(data), "--url", "http://127.0.0.1:9/v1", "--name", "other", "--once"]
    assert main(command) == 1


def test_an_answer_waits_for_its_other_one_over_a_restart_and_no_longer_than_there_is_room(
    data: Path, server: Server, judge_of: Callable[..., Judging]
) -> None:
    first, second = pair(0)
    write(data, first)
    judge_of().turn(0.0)
    write(data, second)
    judge_of().turn(0.0)
    assert len(votes(data)) == 1
    write(data, pair(1)[0], pair(2)[0])
    small = judge_of(pairs_waiting=1)
    small.turn(0.0)
    write(data, pair(2)[1], pair(1)[1])
    small.turn(0.0)
    assert small.progress.skipped[ALONE] == 1
    assert len(votes(data)) == 2


class Rhymes(PairJudge):
    """Somebody's own judge."""

    def prefers(self, messages: Messages, first: str, second: str) -> float:
        if first == second:
            raise CannotJudge("they are the same")
        return 0.75 if first > second else 0.25


class Liar(PairJudge):
    """One that does not keep to probabilities."""

    def prefers(self, messages: Messages, first: str, second: str) -> float:
        return 7.0


def test_a_judge_of_ones_own_is_found_by_its_path(data: Path, server: Server) -> None:
    path = f"{__name__}:Rhymes"
    judge = make_judge(settings(data, server, judge=path))
    assert verdict(judge, [], "b", "a") == 0.75
    with pytest.raises(CannotJudge, match="probabilities"):
        verdict(Liar(settings(data, server), ()), [], "b", "a")
    for wrong in ("nowhere", f"{__name__}:Server", "no.such.module:Judge"):
        with pytest.raises(UsageError, match=r"judge\.judge is"):
            make_judge(settings(data, server, judge=wrong))


def test_settings_that_make_no_sense_are_refused(data: Path, server: Server) -> None:
    (data / "empty").write_text("\n \n")
    for file, said in ((data / "empty", "no principle"), (data / "nowhere", "cannot be read")):
        with pytest.raises(UsageError, match=said):
            read_principles(file)
    with pytest.raises(UsageError, match="key_file cannot be read"):
        make_judge(settings(data, server, key_file=data / "nowhere"))
    for wrong in ({"name": " "}, {"max_tokens": 0}, {"timeout_seconds": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            settings(data, server, **wrong)
