"""Swaps of the policy that users are served by, under load: is any answer lost, mixed up or slow?

Everything but the making of the adapters is the real thing: vLLM, `hearken gateway`, the release controller,
and users who chat all the time and vote. Each swap is a whole release:

    publish   an adapter is put into the registry and announced
    flip      the controller hashes it, loads it, compares the engine's logprobs with the trainer's, and names
              it in a routing table; half of the users get it
    promote   votes decide; a second table makes it live, and a few users keep the one before
    unload    the one before that is unloaded when no gateway holds a lease on it any more

"During swaps" is all of that, from the publication to the end of the unloading; "outside" are the quiet times
in between. A request counts as during when it overlaps.

Each adapter makes the model say one word of its own, so that every single token tells which policy it is of.
What each policy answers is asked of the idle engine beforehand. Afterwards each answer, as the client got it
and as the log has it, is held against what the policy that the log names had answered.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import uvloop

from bench._ports import free_port
from bench._servers import Server, _running, engine, gateway, split_cores
from bench._streams import percentile
from bench._users import Reply, Users, chat
from bench._words import ANSWER_TOKENS, QUESTIONS, Words, read
from deploy.engines.client import EngineClient
from deploy.history.releases import Candidate, Decision, entry, parse
from deploy.registry.manifest import GateNumbers
from deploy.registry.registry import Registry
from feedback.core.events import BASE, COMPLETIONS, RELEASES, Completion
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from hearken.models.tiny import ensure_tiny

STREAMS = 32
WARM_UP_SECONDS = 3.0  # in which all streams begin at once: checked like the rest, but not timed
QUIET_SECONDS = 1.5
_PATIENCE_SECONDS = 180.0
# How fast versions come and go is measured here, and a conversation would hold its own.
_NO_CONVERSATIONS = ("--set", "gateway.conversation_seconds=1")
_TOLD = GateNumbers(
    prompts=64,
    win_rate=0.9,
    win_rate_low=0.8,
    kl_budget_nats_base=10,
    kl_budget_nats_live=10,
    response_tokens=8,
    response_tokens_live=8,
)


@dataclass(slots=True)
class Swap:
    """One release; Unix times in seconds."""

    version: str
    published: float
    decided: dict[str, float] = field(default_factory=dict)  # outcome -> when it was read in the log
    ended: float = 0.0  # unloaded what it made superfluous


Expected = dict[tuple[str, int], tuple[list[int], str]]
"""(adapter's number or "base", question) -> token ids and text of the answer."""


def ask_idle(vllm: Server, folder: Path, words: Words) -> Expected:
    """What each adapter answers on an engine that does nothing else. Raises RuntimeError for an odd one."""
    expected: Expected = {}
    client = EngineClient(vllm.url)
    for name in [BASE, *map(str, range(len(words.words)))]:
        model = BASE if name == BASE else f"idle-{name}"
        if name != BASE:
            client.load(model, str(folder / name))
        for question in range(len(QUESTIONS)):
            body = chat(question) | {"model": model, "return_token_ids": True}
            answer = httpx.post(vllm.url + "/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
            expected[name, question] = (answer["token_ids"], answer["message"]["content"])
            if name != BASE and answer["token_ids"] != [words.words[int(name)].token_id] * ANSWER_TOKENS:
                raise RuntimeError(
                    f"adapter {name} does not say its word to {QUESTIONS[question]!r}: {answer}"
                )
        if name != BASE:
            client.unload(model)
    client.close()
    return expected


class Releases:
    """Publishes the adapters one after the other and follows what the controller does with them."""

    def __init__(self, data: Path, folder: Path, words: Words, controller_log: Path) -> None:
        self.log = SqliteLog(data / "log.db")
        self.swaps: list[Swap] = []
        self._sealer = open_sealer(data)
        self._registry = Registry(data / "adapters")
        self._folder = folder
        self._words = words
        self._controller_log = controller_log
        self._cursor: dict[str, int] = {}

    def publish(self) -> Swap:
        """The next adapter, trained from the one that is live."""
        number = len(self.swaps)
        swap = Swap("", time.time())
        manifest = self._registry.publish(
            self._folder / str(number),
            parent=self.swaps[-1].version if self.swaps else BASE,
            base_digest=self._words.base_digest,
            rank=self._words.rank,
            training={},
            offsets={},
            gate=_TOLD,
            probes=self._words.words[number].probes,
        )
        self.log.append([entry(Candidate.announce(manifest.version))]).result()
        swap.version = manifest.version
        self.swaps.append(swap)
        return swap

    def follow(self, swap: Swap) -> None:
        """Return when a swap is over. Raises RuntimeError when it ends differently or not at all."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while "promoted" not in swap.decided:
            records, self._cursor = self.log.read([RELEASES], self._cursor, wait_seconds=0.25)
            for event in map(parse, [record.value for record in records]):
                if isinstance(event, Decision) and event.version == swap.version:
                    swap.decided.setdefault(event.outcome, time.time())
                    if event.settled and event.outcome != "promoted":
                        raise RuntimeError(f"a swap did not end well: {event.sentence}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no end of {swap.version} after {_PATIENCE_SECONDS:g} s: {swap.decided}")
        if len(self.swaps) > 2:  # live and previous stay
            gone = f"unloaded {self.swaps[-3].version} "
            while (line := self._line(gone)) is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.swaps[-3].version} was not unloaded; see {self._controller_log}"
                    )
                time.sleep(0.1)
            swap.ended = float(line.split()[0])
        else:
            swap.ended = time.time()

    def _line(self, text: str) -> str | None:
        lines = self._controller_log.read_text().splitlines()
        return next((line for line in lines if text in line), None)

    def completions(self) -> dict[str, Completion]:
        """All logged completions by their id."""
        found: dict[str, Completion] = {}
        cursor: dict[str, int] = {}
        while True:
            records, cursor = self.log.read([COMPLETIONS], cursor)
            if not records:
                return found
            for record in records:
                completion = self._sealer.open(Completion.model_validate_json(record.value))
                found[completion.completion_id] = completion


async def swap_under_load(front: Server, releases: Releases, words: list[str], requests: int) -> Users:
    """All swaps while users chat; then on until there were enough requests."""
    users = Users(front.url, STREAMS, likes=bool)
    chatting = asyncio.create_task(users.come())
    await asyncio.sleep(WARM_UP_SECONDS)
    users.warmed_up = len(users.replies)
    for word in words:
        await asyncio.sleep(QUIET_SECONDS)
        users.likes = partial(_says, word=word)
        swap = await asyncio.to_thread(releases.publish)
        try:
            await asyncio.to_thread(releases.follow, swap)
        except RuntimeError:
            errors = [reply.error for reply in users.replies if reply.error is not None]
            print(f"{len(users.replies)} requests, {len(errors)} failed {errors[-1:]}")
            print(f"{users.votes} votes, {users.refused_votes} refused")
            raise
        print(describe(swap, users.replies, word), flush=True)
    await asyncio.sleep(QUIET_SECONDS)
    users.stop_after(requests)
    await chatting
    return users


def first_token_seconds(swap: Swap, replies: Sequence[Reply], word: str) -> float:
    """From the publication to the first text that a user got of it."""
    return min((r.first for r in replies if _says(r.text, word)), default=float("inf")) - swap.published


def _says(text: str, word: str) -> bool:
    return text.split() == [word] * ANSWER_TOKENS


def describe(swap: Swap, replies: Sequence[Reply], word: str) -> str:
    """A line for people about one swap."""
    after = {name: f"{at - swap.published:.2f}" for name, at in swap.decided.items()}
    return (
        f"{swap.version} {word!r}: first token {first_token_seconds(swap, replies, word):.2f} s after its "
        f"publication, decided {after}, over after {swap.ended - swap.published:.1f} s; "
        f"{len(replies)} requests so far"
    )


def is_mixed(reply: Reply, event: Completion, names: dict[str, str], expected: Expected) -> bool:
    """Whether an answer is anything but the whole answer of the policy that the log names for it."""
    tokens, text = expected[names[event.policy_version], reply.question]
    (choice,) = event.choices
    return (choice.token_ids, choice.text, reply.text) != (tokens, text, text)


def overlaps(reply: Reply, swaps: Sequence[Swap]) -> bool:
    """Whether an answer ran during a swap."""
    return any(reply.started < swap.ended and reply.ended > swap.published for swap in swaps)


def phases(replies: Sequence[Reply], swaps: Sequence[Swap]) -> dict[str, list[float]]:
    """The latencies of the answers that overlap each part of a swap."""
    found: dict[str, list[float]] = {}
    for swap in swaps:
        started, promoted = swap.decided["started"], swap.decided["promoted"]
        for name, begin, end in (
            ("  publish to flip", swap.published, started + 0.3),
            ("  canary", started + 0.3, promoted),
            ("  promotion", promoted, promoted + 0.5),
            ("  unloading", swap.ended - 0.1, swap.ended + 0.1),
        ):
            found.setdefault(name, []).extend(
                r.ended - r.started for r in replies if r.started < end and r.ended > begin
            )
    return found


def report(users: Users, releases: Releases, words: list[str], expected: Expected) -> dict[str, float | int]:
    """Print what was measured; the numbers that count."""
    names = {BASE: BASE} | {swap.version: str(n) for n, swap in enumerate(releases.swaps)}
    events = releases.completions()
    answered = [r for r in users.replies if r.error is None]
    failed = [r for r in users.replies if r.error is not None]
    for reply in failed[:5]:
        print(f"failed: {reply}")
    unlogged = [r for r in answered if r.completion_id not in events]
    mixed = [
        r
        for r in answered
        if r.completion_id in events and is_mixed(r, events[r.completion_id], names, expected)
    ]
    for reply in mixed[:5]:
        print(f"mixed: {reply} {events[reply.completion_id].choices}")
    timed = [r for r in users.replies[users.warmed_up :] if r.error is None]
    during = [r.ended - r.started for r in timed if overlaps(r, releases.swaps)]
    outside = [r.ended - r.started for r in timed if not overlaps(r, releases.swaps)]
    sides = {"during swaps": during, "outside": outside} | phases(timed, releases.swaps)
    for name, seconds in sides.items():
        shares = ", ".join(
            f"p{100 * s:g} {1e3 * percentile(seconds, s):.0f}" for s in (0.5, 0.9, 0.99, 0.999)
        )
        print(f"{name}: {len(seconds)} requests, milliseconds {shares}")
    firsts = [
        first_token_seconds(swap, answered, word) for swap, word in zip(releases.swaps, words, strict=True)
    ]
    print(
        f"votes: {users.votes}, refused {users.refused_votes}; answers that were not logged: {len(unlogged)}"
    )
    return {
        "swaps": len(releases.swaps),
        "requests": len(users.replies),
        "failed": len(failed) + len(unlogged) + users.refused_votes,
        "mixed": len(mixed),
        "publish_to_first_token_s": round(percentile(firsts, 0.5), 3),
        "publish_to_first_token_max_s": round(max(firsts), 3),
        "p99_ratio": round(percentile(during, 0.99) / percentile(outside, 0.99), 3),
        "p50_ratio": round(percentile(during, 0.5) / percentile(outside, 0.5), 3),
        "requests_during": len(during),
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench swap", description=__doc__.partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many (default: 10000)")
    arguments = parser.parse_args(argv)
    engine_cores, our_cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        folder = Path(scratch)
        adapters = folder / "words"
        adapters.mkdir()
        making = [
            sys.executable,
            "-m",
            "bench._words",
            str(ensure_tiny()),
            str(adapters),
            str(arguments.swaps),
        ]
        print(f"$ {' '.join(making)}", flush=True)
        subprocess.run(making, check=True)
        words = read(adapters)
        with (
            engine(folder, "engine", cores=engine_cores) as vllm,
            gateway(folder, vllm.url, cores=our_cores, flags=_NO_CONVERSATIONS) as front,
        ):
            expected = ask_idle(vllm, adapters, words)
            texts = [expected[str(n), 0][1].split()[0] for n in range(len(words.words))]
            log, data = folder / "controller.log", folder / "data"
            command = [sys.executable, "-m", "bench._controller", str(data), vllm.url, str(free_port())]
            releases = Releases(data, adapters, words, log)
            os.sched_setaffinity(0, our_cores)
            with (
                _running(log, command, os.environ, our_cores),
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                users = runner.run(swap_under_load(front, releases, texts, arguments.requests))
        found = report(users, releases, texts, expected)
        releases.log.close()
    print(json.dumps(found))
    return 0
