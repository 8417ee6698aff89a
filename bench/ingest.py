"""How many votes one gateway process takes, durably, with one core; the load has the other core.

    single     votes one by one, each answered when it is on disk
    batch      NDJSON bodies of 500 votes
    half       single votes at half of that rate, sent on time whatever the answers do
    backlog    a million votes while the broker is away: they wait in the outbox, not in memory
    drain      the broker comes back: how fast the relay moves them, while a tenth of the batch rate goes on

The gateway is the real process with its log on disk; there is no engine behind it, and votes need none.
"""

import argparse
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

import orjson
import uvloop

from bench._ports import free_port
from bench._posts import Result, closed_loop, open_loop, request
from bench._servers import Server, broker, gateway, split_cores
from feedback.core.events import FEEDBACK
from feedback.core.ids import Signer
from feedback.core.secret import load_secret

BATCH = 500
CONNECTIONS = 32
BATCH_CONNECTIONS = 3
_NOWHERE = "http://127.0.0.1:9"  # an engine that is never there
_LINES = "application/x-ndjson"


def votes(signer: Signer, count: int) -> list[bytes]:
    """Thumbs on completions that this service could have given out, one by each user."""
    words = ("up", "down")
    return [
        orjson.dumps(
            {
                "kind": "thumbs",
                "completion_id": signer.new_completion_id(),
                "value": words[i % 2],
                "user": f"user-{i}",
            }
        )
        for i in range(count)
    ]


def single_requests(signer: Signer, count: int) -> list[bytes]:
    """Requests with one vote each."""
    return [request("/v1/feedback", body) for body in votes(signer, count)]


def batch_requests(signer: Signer, count: int) -> list[bytes]:
    """Requests with `BATCH` votes each."""
    bodies = votes(signer, count * BATCH)
    return [
        request("/v1/feedback", b"\n".join(bodies[at : at + BATCH]), _LINES)
        for at in range(0, len(bodies), BATCH)
    ]


def show(name: str, result: Result, server: Server, cpu_before: float, votes_each: int = 1) -> None:
    """One line for a phase."""
    cpu = server.cpu_seconds() - cpu_before
    rate = result.per_second * votes_each
    print(
        f"{name:8} {rate:9.0f} votes/s  p50 {result.percentile_ms(0.5):6.2f} ms  p99 "
        f"{result.percentile_ms(0.99):6.2f} ms  gateway {100 * cpu / result.seconds:3.0f}% of its core, load "
        f"{100 * result.client_cpu_seconds / result.seconds:3.0f}%  answers {dict(result.statuses)}",
        flush=True,
    )


def measure(run: Callable[[], Result], name: str, server: Server, votes_each: int = 1) -> Result:
    """A phase, shown."""
    before = server.cpu_seconds()
    result = run()
    show(name, result, server, before, votes_each)
    return result


def embedded(folder: Path, cores: Collection[int], seconds: float) -> dict[str, float]:
    """The three phases without a broker."""
    with gateway(folder, _NOWHERE, cores=cores, ready="/livez") as server:
        signer = Signer(load_secret(folder / "data" / "secret"))
        ones, batches = single_requests(signer, 20_000), batch_requests(signer, 60)
        warm_up = int(1000 * min(1.0, seconds))
        uvloop.run(closed_loop(server.port, ones, CONNECTIONS, warm_up))
        count = int(2000 * seconds)
        single = measure(
            lambda: uvloop.run(closed_loop(server.port, ones, CONNECTIONS, count)), "single", server
        )
        batch = measure(
            lambda: uvloop.run(closed_loop(server.port, batches, BATCH_CONNECTIONS, int(50 * seconds))),
            "batch",
            server,
            BATCH,
        )
        rate = single.per_second / 2
        half = measure(
            lambda: uvloop.run(open_loop(server.port, ones, CONNECTIONS, rate, seconds)), "half", server
        )
    return {
        "single_per_s": round(single.per_second),
        "batch_per_s": round(batch.per_second * BATCH),
        "p99_ms_at_half": round(half.percentile_ms(0.99), 2),
        "not_accepted": sum(
            result.statuses.total() - result.statuses[right]
            for result, right in ((single, 202), (batch, 207), (half, 202))
        ),
    }


def relayed(
    folder: Path, cores: tuple[Collection[int], Collection[int]], events: int, batch_per_s: float
) -> dict[str, float]:
    """A backlog of `events` grows while the broker is away and drains when it comes."""
    port = free_port()
    flags = ("--kafka", f"127.0.0.1:{port}")
    with ExitStack() as stack:
        server = stack.enter_context(gateway(folder, _NOWHERE, cores=cores[0], ready="/livez", flags=flags))
        signer = Signer(load_secret(folder / "data" / "secret"))
        batches = batch_requests(signer, 60)
        uvloop.run(closed_loop(server.port, batches, BATCH_CONNECTIONS, 20))
        before, peak = server.resident_mb(), 0.0
        sent = 20
        while sent * BATCH < events:
            part = min(200, events // BATCH - sent)
            uvloop.run(closed_loop(server.port, batches, BATCH_CONNECTIONS, part))
            sent += part
            peak = max(peak, server.resident_mb())
        waiting = backlog(server)
        print(f"backlog  {waiting:9.0f} votes wait; the gateway grew from {before:.0f} to {peak:.0f} MB")
        stack.enter_context(broker(folder / "kafka", port, cores=cores[1]))
        more, seconds = drain(server, batches, batch_per_s / 10)
        peak = max(peak, server.resident_mb())
        total = waiting + more * BATCH
        there = on_the_broker(f"127.0.0.1:{port}")
        print(f"drain    {total / seconds:9.0f} votes/s for {seconds:.0f} s; {there} votes are on the broker")
    return {
        "relay_per_s": round(total / seconds),
        "relay_ratio": round(total / seconds / (batch_per_s / 10), 2),
        "rss_growth_mb": round(peak - before, 1),
        "waited": round(waiting),
        "on_broker": there,
    }


def backlog(server: Server) -> float:
    """How many events wait for the broker, by the gateway's own metric."""
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("hearken_relay_lag_events "):
                return float(line.split()[1])
    raise RuntimeError("the gateway does not show hearken_relay_lag_events")


def drain(server: Server, batches: list[bytes], per_second: float) -> tuple[int, float]:
    """Send at a rate until nothing waits any more: how many more batches came, and the seconds it took."""
    started = time.perf_counter()
    more = 0
    while backlog(server) > 0:
        uvloop.run(open_loop(server.port, batches, BATCH_CONNECTIONS, per_second / BATCH, 2.0))
        more += int(per_second / BATCH * 2.0)
        if time.perf_counter() - started > 600:
            raise RuntimeError(f"{backlog(server):.0f} votes still wait after 600 s")
        while backlog(server) > 0 and more and backlog(server) < per_second * 2:
            time.sleep(0.02)
    return more, time.perf_counter() - started


def on_the_broker(bootstrap: str) -> int:
    """How many records the feedback topic has."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    places = [TopicPartition(FEEDBACK, number) for number in consumer.partitions_for_topic(FEEDBACK)]
    ends = consumer.end_offsets(places)
    consumer.close()
    return int(sum(ends.values()))


def main(argv: list[str]) -> int:
    """Run it; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase without a broker (8)")
    parser.add_argument("--events", type=int, default=1_000_000, help="of the backlog (1000000); 0: none")
    arguments = parser.parse_args(argv)
    server_core, load_core = split_cores()
    os.sched_setaffinity(0, load_core)
    with tempfile.TemporaryDirectory(prefix="hearken-ingest-") as temporary:
        folder = Path(temporary)
        result = embedded(folder / "embedded", server_core, arguments.seconds)
        if arguments.events:
            result |= relayed(
                folder / "relayed", (server_core, load_core), arguments.events, result["batch_per_s"]
            )
    print(json.dumps(result))
    return 0
