"""How many examples a second POST /v1/imports takes, and what another request waits meanwhile.

    alone     requests for /v1/models one after the other, and no import
    import    the same while pairs are imported; each body is another one
    again     a body that was imported already: it is read and nothing is written
    killed    the gateway is killed in the middle of a body, with SIGKILL, and started again on its data; the
              same body is sent again, and the votes in the log are counted. What was under way at the kill is
              there a second time under the same id, by which readers count it once

The gateway is the real process with its log on disk; there is no engine behind it, and imports need none.
"""

import argparse
import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

import httpx

from bench._servers import gateway
from feedback.core.events import FEEDBACK
from feedback.core.replay import replay
from feedback.sqlite.log import SqliteLog
from hearken.data.importing import choose_model

_NOWHERE = "http://127.0.0.1:9"  # an engine that is never there
_LINES = {"content-type": "application/x-ndjson"}
_PAUSE_SECONDS = 0.005  # between two requests: they are to feel the import, not to take a core from it


def pairs(count: int, name: str) -> bytes:
    """JSON lines of pairs whose answers have some 40 words."""
    text = "the parcel comes on its way this monday so please look at your account for a refund"
    other = f"{text}, and {text}"
    rows = (
        {"prompt": f"{name} {i}", "chosen": f"{text}. {text}.", "rejected": f"{other} {i}"}
        for i in range(count)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def send(http: httpx.Client, body: bytes) -> float:
    """Import a body; the seconds that it took."""
    started = time.perf_counter()
    http.post("/v1/imports", content=body, headers=_LINES).raise_for_status()
    return time.perf_counter() - started


def waits_ms(url: str, work: Callable[[], object]) -> tuple[float, float]:
    """Median and 99th percentile of other requests' milliseconds while something is done."""
    found: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url) as http:
            while not done.wait(_PAUSE_SECONDS):
                started = time.perf_counter()
                http.get("/v1/models").raise_for_status()
                found.append(1000 * (time.perf_counter() - started))

    asking = threading.Thread(target=ask)
    asking.start()
    work()
    done.set()
    asking.join()
    cuts = quantiles(found, n=100)
    return round(cuts[49], 2), round(cuts[98], 2)


def killed(folder: Path, flags: Sequence[str], count: int, after_seconds: float) -> dict[str, int]:
    """Kill a gateway some seconds into an import; what another one says of the same body, and what is in the
    log."""
    body, cores = pairs(count, "killed"), os.sched_getaffinity(0)
    with (
        gateway(folder, _NOWHERE, cores=cores, ready="/livez", flags=flags) as server,
        httpx.Client(base_url=server.url, timeout=600) as http,
    ):
        send(http, pairs(1, "warm"))
        threading.Timer(after_seconds, os.killpg, (server.pid, signal.SIGKILL)).start()
        with contextlib.suppress(httpx.TransportError):
            send(http, body)
    with (
        gateway(folder, _NOWHERE, cores=cores, ready="/livez", flags=flags) as server,
        httpx.Client(base_url=server.url, timeout=600) as http,
    ):
        told = http.post("/v1/imports", content=body, headers=_LINES).raise_for_status().json()
    log, votes = SqliteLog(folder / "data" / "log.db"), Counter[str]()
    for records, _ in replay(log, [FEEDBACK], {}):
        votes.update(str(json.loads(record.value)["event_id"]) for record in records)
    log.close()
    return {
        "killed_written_before": told["written_before"],
        "killed_written_then": told["written"],
        "killed_votes_in_log": len(votes) - 1,  # one is of the body that warms up
        "killed_votes_in_log_again": sum(times > 1 for times in votes.values()),
    }


def main(argv: list[str]) -> int:
    """Run it; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench imports", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5000, help="in each body (5000)")
    count = parser.parse_args(argv).pairs
    cores, flags = os.sched_getaffinity(0), ("--model", str(choose_model(None)))
    with (
        tempfile.TemporaryDirectory(prefix="hearken-imports-") as folder,
        gateway(Path(folder), _NOWHERE, cores=cores, ready="/livez", flags=flags) as server,
        httpx.Client(base_url=server.url, timeout=600) as http,
    ):
        send(http, pairs(1, "warm"))  # the tokenizer is there from now on
        alone = waits_ms(server.url, lambda: time.sleep(3))
        seconds: list[float] = []
        cpu = server.tree_cpu_seconds()
        meanwhile = waits_ms(server.url, lambda: seconds.append(send(http, pairs(count, "one"))))
        cpu = server.tree_cpu_seconds() - cpu
        again = send(http, pairs(count, "one"))
    with tempfile.TemporaryDirectory(prefix="hearken-imports-") as folder:
        survived = killed(Path(folder), flags, count, seconds[0] / 2)
    result = {
        "pairs_per_s": round(count / seconds[0]),
        "pairs_per_cpu_s": round(count / cpu),  # of the gateway and of who works it off
        "again_per_s": round(count / again),
        "alone_ms": alone,
        "meanwhile_ms": meanwhile,
        **survived,
    }
    print(json.dumps(result))
    return 0
