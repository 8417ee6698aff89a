"""SIGKILL while the policy is trained: what is published is the undisturbed adapter, bit for bit.

And a learner of two processes, which ends as one: when it is told to, and when either is killed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench._ports import free_port, listens
from deploy.engines.client import EngineClient, Sample
from deploy.history.releases import Candidate, parse
from deploy.registry.registry import Registry
from feedback.core.events import BASE, COMPLETIONS, FEEDBACK, RELEASES, Choice, Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Entry
from feedback.opening import open_log
from tests.conftest import Engine, running_engine
from tests.faults.processes import LearnerNursery
from tests.faults.scale import SCALE
from tests.learner.test_ranks import TORCHRUN

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

RATERS = 40
SETTINGS = {
    "min_labels": 60,
    "labels_per_update": 60,
    "rollouts_per_step": 16,
    "steps_per_candidate": 5,
    "gate_prompts": 32,
    "max_tokens": 24,
    # Whether five small steps please the judges is not the question here, and depends on the machine's bits.
    "gate": {"win_rate_low": 0.0},
    "self_check": None,
    "guards": None,
}


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that takes one request at a time and remembers none, so that an answer does not depend, in
    its last bits, on what else was asked: what is left to prove is the learner's part."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_engine(tiny_model, log, "--max-num-seqs", "1", "--no-enable-prefix-caching") as found:
        yield found


def entries(samples: list[Sample]) -> list[Entry]:
    """Answers, and a thumb on each by one of some raters, who like short ones."""
    middle = sorted(len(sample.token_ids) for sample in samples)[len(samples) // 2]
    found = []
    for i, sample in enumerate(samples):
        user, talk = f"u_{i % RATERS}", f"talk-{i}"
        completion = Completion(
            event_id=f"c{i}",
            completion_id=f"c{i}",
            at=float(i),
            conversation=talk,
            user=user,
            policy_version=BASE,
            arm="base",
            messages=[{"role": "user", "content": "?"}],
            prompt_token_ids=sample.prompt_token_ids,
            choices=[
                Choice(
                    text=sample.text,
                    token_ids=sample.token_ids,
                    logprobs=sample.logprobs,
                    finish_reason=sample.finish_reason,
                )
            ],
        )
        up = len(sample.token_ids) < middle
        vote = Feedback(
            event_id=vote_id("default", user, "thumbs", [(f"c{i}", 0)]),
            at=float(i),
            revision=i + 1,
            kind="thumbs",
            rater=user,
            targets=[Target(completion_id=f"c{i}")],
            value=float(up),
            label="up" if up else "down",
        )
        found += [
            Entry(COMPLETIONS, talk, completion.model_dump_json().encode()),
            Entry(FEEDBACK, talk, vote.model_dump_json().encode()),
        ]
    return found


@pytest.fixture(scope="module")
def votes(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 140 voted answers of the base model."""
    from transformers import AutoTokenizer

    from hearken.models.support_desk import prompts

    tokenizer = AutoTokenizer.from_pretrained(engine.model)
    asked = [
        tokenizer.encode(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            ),
            add_special_tokens=False,
        )
        for question in prompts(140, seed=5)
    ]
    client = EngineClient(engine.url)
    samples = client.sample(BASE, asked, max_tokens=24, seed=1)
    client.close()
    folder = tmp_path_factory.mktemp("votes") / "data"
    folder.mkdir()
    log = open_log(folder, None, "tester")
    log.append(entries(samples)).result()
    log.close()
    return folder


def published(data: Path, engine: Engine, kills: int, seed: int) -> tuple[str, int]:
    """The sha256 of the first candidate's weights, and how often its learner was killed on the way, at most
    `kills` times."""
    log = open_log(data, None, "tester")
    learners = LearnerNursery(data, str(engine.model), settings={"engine": engine.url, **SETTINGS})
    draw, done = random.Random(seed), 0
    records, cursor = log.read([RELEASES], {}, 10, 0.0)
    try:
        learners.start()
        while not records:
            patience = draw.uniform(0.05, 4.0) if done < kills else 900.0
            records, cursor = log.read([RELEASES], cursor, 10, patience)
            if not records and done < kills:
                learners.kill()
                done += 1
                learners.start()
            elif not records:
                pytest.fail(f"no candidate: {learners.output.read_text()[-3000:]}")
        event = parse(records[0].value)
        assert isinstance(event, Candidate)
    finally:
        learners.close()
        log.close()
    return Registry(data / "adapters").manifest(event.version).files["adapter_model.safetensors"], done


def test_a_killed_learner_publishes_the_undisturbed_ones_adapter(
    engine: Engine, votes: Path, tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(votes, tmp_path / name / "data"))

    undisturbed, _ = published(copy("undisturbed"), engine, 0, seed=0)
    kills, runs = 0, 0
    while kills < SCALE.training_kills:
        runs += 1
        adapter, done = published(copy(f"run-{runs}"), engine, SCALE.training_kills - kills, seed=runs)
        kills += done
        assert adapter == undisturbed, f"run {runs} after {done} kills"
        assert done or runs < 5, "the learner is faster than the killer"
    print(f"\n{kills} kills in {runs} runs, every time {undisturbed[:16]}")


TWO_RANKS = """
import json, os, sys
from pathlib import Path
from learner.main import run
from tests.faults.nursery import settings_of

given = json.loads(sys.argv[1])
Path(given["data"] + f".pid{os.environ['RANK']}").write_text(str(os.getpid()))
run(settings_of(given))
"""


@contextmanager
def two_ranks(engine: Engine, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A learner of two processes under torchrun on a data folder, once both are at work."""
    port = free_port()
    told = {"data": str(data), "model": str(engine.model), "engine": engine.url, "threads": 1, **SETTINGS}
    script, output = data.with_suffix(".py"), data.with_suffix(".output")
    script.write_text(TWO_RANKS)
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*TORCHRUN, str(script), json.dumps(told | {"metrics_port": port})],
            stdout=out,
            stderr=out,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    try:
        while not listens(port):  # rank 0 serves its metrics once the other one has joined it
            assert process.poll() is None, output.read_text()
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(300)


def ranks_of(data: Path) -> list[int]:
    return [int(Path(f"{data}.pid{rank}").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def learned(engine: Engine, votes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of two ranks that published a candidate and ended when they were told to."""
    data = Path(shutil.copytree(votes, tmp_path_factory.mktemp("learned") / "data"))
    with two_ranks(engine, data) as process:
        log = open_log(data, None, "tester")
        records, cursor = log.read([RELEASES], {}, 10, 1.0)
        while not records:
            assert process.poll() is None, data.with_suffix(".output").read_text()
            records, cursor = log.read([RELEASES], cursor, 10, 1.0)
        log.close()
        event = parse(records[0].value)
        assert isinstance(event, Candidate)
        assert Registry(data / "adapters").manifest(event.version).files["adapter_model.safetensors"]
        process.terminate()
        process.wait(300)
    return data


def test_two_ranks_learn_and_end_together(learned: Path) -> None:
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks_of(learned))
    assert (learned / "learner").is_dir()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_other(
    engine: Engine, learned: Path, tmp_path: Path, victim: int
) -> None:
    data = Path(shutil.copytree(learned, tmp_path / "data"))
    with two_ranks(engine, data) as process:
        ranks = ranks_of(data)
        os.kill(ranks[victim], signal.SIGKILL)
        assert process.wait(300) != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
