"""What a learner costs as its history grows: raters, completions and votes by ten thousands to the million.

For each size a log is written with as many completions, votes and raters (a rater for each vote; sealed
texts of some 130 tokens). A learner with an empty folder reads it (`ready_seconds`), and 1,000 votes on
answers from all over the log come: `late_votes_joined` of them got a label. Then its label store is full, it
has the features of all labels, and a sum of agreement of every rater. `update_seconds` is the part of a
reward update that asks who may be trusted. `checkpoint_seconds` and `checkpoint_mb`, all that is written, are
of a checkpoint after 200 more votes. `restart_seconds` is what a process that has loaded its model takes to
go on, `recent_seconds` what the first use of the newest completions takes then. `strangers_seconds`: the
quarantine of 8,000 strangers' votes on one answer. Seconds are of CPU for `update`, `strangers` and `_cpu_`,
and wall time else; `peak_mb` is the most memory that the process had, with torch and a tiny model.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SIZES, FULL = (10_000, 100_000), 1_000_000
LATE = 1000
VOTES = 200
STRANGERS = 8000
TOKENS = 64  # of a prompt, and of an answer
PROMPTS = 2000
USERS = 100  # who ask; raters are as many as votes


def history(size: int, sealer: Any) -> Iterator[list[Any]]:
    """Log entries: `size` completions, each with a vote of a rater of its own right behind it."""
    from feedback.core.events import COMPLETIONS, FEEDBACK, Choice, Completion
    from feedback.core.log import Entry

    draw = random.Random(0)
    prompts = [draw.choices(range(1000), k=TOKENS) for _ in range(PROMPTS)]
    for i in range(size):
        answer = draw.choices(range(1000), k=TOKENS)
        choice = Choice(text="word " * 50, token_ids=answer, logprobs=[-1.25] * TOKENS, finish_reason="stop")
        asked = Completion(
            event_id=f"chatcmpl-{i:040d}",
            completion_id=f"chatcmpl-{i:040d}",
            at=float(i),
            conversation=f"talk-{i}",
            user=f"u_{i % USERS:024d}",
            policy_version="base",
            arm="live",
            messages=[{"role": "user", "content": "word " * 50}],
            prompt_token_ids=prompts[i % PROMPTS],
            choices=[choice],
        )
        value = sealer.seal(asked).model_dump_json().encode()
        yield [
            Entry(COMPLETIONS, asked.conversation, value),
            Entry(FEEDBACK, "k", vote(i, f"u_{i:024d}", i).encode()),
        ]


def vote(about: int, rater: str, at: float) -> str:
    """A thumb on the completion of a number."""
    from feedback.core.events import Feedback, Target
    from feedback.core.ids import vote_id

    target = Target(completion_id=f"chatcmpl-{about:040d}")
    return Feedback(
        event_id=vote_id("default", rater, "thumbs", [target.place]),
        at=at,
        revision=int(at) + 1,
        kind="thumbs",
        rater=rater,
        targets=[target],
        value=float(about % 2),
        label="up" if about % 2 else "down",
        source="annotator",
    ).model_dump_json()


class Bench:
    """A learner of one size in a folder, which has a model already."""

    def __init__(self, folder: Path, size: int) -> None:
        from feedback.opening import open_sealer
        from feedback.sqlite.log import SqliteLog
        from learner.model.shared import SharedModel
        from learner.settings import LearnerSettings

        self.size, self.rounds = size, 0
        data = folder / "data"
        data.mkdir()
        self.settings = LearnerSettings(
            data=data,
            model=str(folder / "model"),
            engine="http://127.0.0.1:9",
            min_labels=10**9,
            labels_per_update=10**9,
        )
        self.log = SqliteLog(data / "log.db")
        self.model = SharedModel.of(self.settings)
        written = history(size, open_sealer(data))
        while some := list(islice(written, 1000)):
            self.log.append([entry for entries in some for entry in entries]).result()
        self.learner = self.start()

    def start(self) -> Any:
        """A learner that remembers nothing."""
        from deploy.engines.client import EngineClient
        from deploy.registry.registry import Registry
        from learner.loop.learner import Learner
        from learner.loop.metrics import LearnerMetrics

        engine, registry = EngineClient(self.settings.engine), Registry(self.settings.data / "adapters")
        return Learner(self.settings, self.log, engine, registry, self.model, LearnerMetrics())

    def read(self) -> float:
        """Seconds until the learner has read the log."""
        from feedback.core.events import COMPLETIONS, FEEDBACK

        started = time.monotonic()
        while self.log.behind((COMPLETIONS, FEEDBACK), self.learner.place.cursor)[0]:
            self.learner.turn(0.0)
        return time.monotonic() - started

    def append_votes(self, about: list[int]) -> None:
        """Votes of new raters on some completions."""
        from feedback.core.events import FEEDBACK
        from feedback.core.log import Entry

        self.rounds += 1
        rows = [vote(i, f"v_{self.rounds}_{i:020d}", self.size + n) for n, i in enumerate(about)]
        self.log.append([Entry(FEEDBACK, "k", row.encode()) for row in rows]).result()

    def fill(self) -> None:
        """Features of all labels, and a sum of agreement of every rater, as fits would leave them."""
        import torch

        from learner.reward.features import key_of

        votes = self.learner.labels.votes
        keys = [key_of(answer) for each in votes for answer in self.learner.labels.answers_of(each)]
        width = self.learner.features._dense_width
        dense = torch.rand(len(keys), width).half()
        self.learner.features.restore({"keys": keys, "dense": dense, "scored": [], "scores": None})
        for i in range(self.size):
            self.learner.memory.raters[f"u_{i:024d}"] = (0.8 * (1 + i % 3), 1 + i % 3)
        self.learner.agreement.add(votes, [0.8] * len(votes))


def measure(folder: Path, size: int) -> dict[str, Any]:
    """All of it at one size."""
    from learner.votes import trust

    bench = Bench(folder, size)
    found: dict[str, Any] = {"size": size}
    cpu = time.process_time()
    found["ready_seconds"] = bench.read()
    found["ready_cpu_seconds"] = time.process_time() - cpu
    learner, before = bench.learner, bench.learner.labels.used
    bench.append_votes(random.Random(1).sample(range(size), LATE))
    found["late_seconds"] = bench.read()
    found["late_votes_joined"] = learner.labels.used - before
    bench.fill()
    started = time.process_time()
    learner.scoring._weigh_raters()
    for labels in (learner.labels.training, learner.labels.judging):
        trust.trusted(labels, learner.agreement, bench.settings.trust)
    found["update_seconds"] = time.process_time() - started
    learner.save()
    found |= saving(bench)
    learner.memory.close()
    bench.learner = bench.start()
    started, cpu = time.monotonic(), time.process_time()
    assert bench.learner.resume()
    found["restart_seconds"] = time.monotonic() - started
    found["restart_cpu_seconds"] = time.process_time() - cpu
    started = time.monotonic()
    len(bench.learner.joiner.completions)
    found["recent_seconds"] = time.monotonic() - started
    found["memory_file_mb"] = bench.learner.memory.path.stat().st_size / 1e6
    found["strangers_seconds"] = strangers()
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return found


def saving(bench: Bench) -> dict[str, float]:
    """A checkpoint after as many new votes as start an update."""
    bench.append_votes(list(range(VOTES)))
    bench.learner._read(0.0)
    started, before = time.monotonic(), written()
    bench.learner.save()
    return {"checkpoint_seconds": time.monotonic() - started, "checkpoint_mb": (written() - before) / 1e6}


def written() -> int:
    """Bytes that this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.partition(": ")[2] for line in lines if line.startswith("wchar")))


def strangers() -> float:
    """CPU seconds of the quarantine of many strangers' votes on one answer."""
    from feedback.joining.labels import Answer, Label
    from learner.votes.quarantine import quarantine
    from learner.votes.trust import TrustRules

    answer = Answer(
        *(
            "chatcmpl-1",
            0,
            "u_owner",
            "base",
            "live",
            "answer",
            1,
            (1,),
            (2,),
            "",
            "stop",
            0.0,
            None,
            0.1,
            True,
        )
    )
    mob = [
        Label(f"fb-{i}", 1, "thumbs", f"u_{i}", "default", i * 0.01, 0.0, "down", "end_user", (answer,))
        for i in range(STRANGERS)
    ]
    started = time.process_time()
    assert len(quarantine(mob, TrustRules(), now=1e6)) == STRANGERS
    return time.process_time() - started


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench growth", description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million, too: half an hour, and 4 GB of disk")
    parser.add_argument("--only", type=int, help="this size alone, in this process")
    arguments = parser.parse_args(argv)
    if arguments.only is not None:
        with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
            from bench._shapes import TINY, make_model, make_tokenizer

            make_tokenizer(Path(scratch) / "model")
            make_model(Path(scratch) / "model", TINY)
            print(json.dumps(measure(Path(scratch), arguments.only)))
        return 0
    rows = {}
    for size in (*SIZES, *([FULL] if arguments.full else [])):
        command = [sys.executable, "-m", "bench", "growth", "--only", str(size)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = rows[size] = json.loads(output.splitlines()[-1])
        print("  ".join(f"{name} {value:,.4g}" for name, value in row.items()), flush=True)
    most = rows.get(FULL, {})
    found = {
        f"{name}_1e6": round(most[name], 3) if most else None
        for name in ("update_seconds", "checkpoint_mb", "restart_seconds")
    }
    print(json.dumps({**found, "late_votes_joined": most.get("late_votes_joined")}))
    return 0
