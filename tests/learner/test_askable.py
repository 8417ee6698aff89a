"""Prompts that the engine cannot answer are left out; the learner goes on with the others."""

import dataclasses
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
import torch

from deploy.engines.client import EngineClient, EngineDown, EngineError, PromptsRefused, Sample
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.model.shared import POLICY
from learner.rollouts.sampling import RolloutSampler, is_held_out
from tests.conftest import Engine
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_refusing import PolicysEngine, make, refused

CONTEXT = 120
LONG = [7] * 100  # no room for an answer of 64 tokens


def prompts(*, held_out: bool) -> Iterator[list[int]]:
    """Short prompts of one side of the split."""
    made = ([1, 500 + i, 2] for i in range(400))
    return (prompt for prompt in made if is_held_out(prompt) == held_out)


class Choosy(PolicysEngine):
    """Refuses some prompts as vLLM does, and says how long its context is."""

    def __init__(self, learner: Learner, *refused: list[int]) -> None:
        super().__init__(learner)
        self.refused = list(refused)
        self.asked: list[list[int]] = []

    def context(self) -> int:
        return CONTEXT

    def sample(self, model: str, prompts: list[list[int]], **options: Any) -> list[Sample]:
        self.asked += prompts
        assert all(len(prompt) + options["max_tokens"] < CONTEXT for prompt in prompts)
        if wrong := [prompt for prompt in prompts if prompt in self.refused]:
            raise PromptsRefused(wrong, "400 no such thing")
        return super().sample(model, prompts, **options)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def learner_of(log: SqliteLog, folder: Path, asked: list[list[int]]) -> Learner:
    """A learner with enough votes to train, whose users asked these prompts in turn."""
    make_random_model(folder / "model", tokens=1024)
    for i in range(80):
        event = completion(f"c{i}").model_copy(update={"prompt_token_ids": asked[i % len(asked)]})
        made = [record(event), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    learner = make(log, folder)
    learner.settings = dataclasses.replace(learner.settings, rollouts_per_step=16, gate_prompts=16)
    learner.turn(0.0)
    assert learner.state.updates == 1
    return learner


def ask(learner: Learner, engine: Choosy) -> None:
    learner.engine, learner.sampler = engine, RolloutSampler(engine, learner.folder / "rollouts")


def left_out(learner: Learner, use: str, reason: str) -> float | None:
    labels = {"use": use, "reason": reason}
    return learner.metrics.registry.get_sample_value("hearken_learner_prompts_left_out", labels)


def test_rollouts_leave_out_what_the_engine_refuses(
    log: SqliteLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = islice(prompts(held_out=False), 2)
    assert not is_held_out(LONG)
    learner = learner_of(log, tmp_path, [good, bad, LONG])
    engine = Choosy(learner, bad)
    ask(learner, engine)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            learner.turn(0.0)
    assert learner.place.steps == 2  # one turn for the refusal
    assert engine.asked.count(bad) < 16
    assert engine.asked[-16:] == [good] * 16
    assert LONG not in engine.asked
    assert (left_out(learner, "rollouts", "too long"), left_out(learner, "rollouts", "refused")) == (1, 1)
    told = [entry.message for entry in caplog.records if "left out" in entry.message]
    assert len(told) == 2
    assert "400 no such thing" in told[1]


def test_a_candidate_is_compared_on_what_the_engine_answers(log: SqliteLog, tmp_path: Path) -> None:
    good, bad = islice(prompts(held_out=True), 2)
    learner = learner_of(log, tmp_path, [good, bad])
    engine = Choosy(learner, bad)
    ask(learner, engine)
    with torch.no_grad():
        learner.model.flat[POLICY].weights.add_(0.01)  # as if PPO had moved it
    learner.state = dataclasses.replace(learner.state, stage="offering")
    learner.turn(0.0)
    assert learner.place.rollouts == 0
    learner.turn(0.0)
    assert learner.place.rollouts == 1
    assert refused(learner, "gate") == 1  # which finds 16 prompts too few: so it was compared
    assert engine.asked[-16:] == [good] * 16  # of live
    assert left_out(learner, "gate", "refused") == 1


def test_an_engine_that_refuses_all_is_asked_again_after_the_next_votes(
    log: SqliteLog, tmp_path: Path
) -> None:
    bad = next(prompts(held_out=False))
    learner = learner_of(log, tmp_path, [bad])
    engine = Choosy(learner, bad)
    ask(learner, engine)
    learner.turn(0.0)
    asked = len(engine.asked)
    learner.turn(0.0)
    assert len(engine.asked) == asked
    engine.refused = []
    learner.scoring.update()
    learner.turn(0.0)
    assert learner.place.steps == 1


class Answers(BaseHTTPRequestHandler):
    """One code for every request."""

    code = 400

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.mark.parametrize("code", [400, 413, 422, 404, 408, 429, 500, 503])
def test_only_a_request_at_fault_is_a_refusal(code: int) -> None:
    handler = type("Handler", (Answers,), {"code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        client = EngineClient(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(EngineError) as found:
            client.sample("base", [[1], [2]], max_tokens=1, seeds=[1, 2])
        client.close()
        server.shutdown()
    assert isinstance(found.value, PromptsRefused) == (code in (400, 413, 422))
    assert not isinstance(found.value, EngineDown)
    if isinstance(found.value, PromptsRefused):
        assert found.value.prompts == [[1], [2]]


@pytest.mark.engine
def test_the_real_engine_refuses_what_is_too_long_and_says_how_long_that_is(engine: Engine) -> None:
    client = EngineClient(engine.url)
    context = client.context()
    assert context == orjson.loads((engine.model / "config.json").read_bytes())["max_position_embeddings"]
    room = RolloutSampler(client, Path()).room(8)
    longest, longer = [9] * room, [9] * (context + 1)
    assert len(client.sample("base", [longest, [9]], max_tokens=8, seeds=[1, 2])) == 2
    with pytest.raises(PromptsRefused, match="400") as refusal:
        client.sample("base", [[9], longer, longest], max_tokens=8, seeds=[1, 2, 3])
    assert refusal.value.prompts == [longer]
    client.close()
