"""Bodies for POST /v1/imports, and what became of them."""

import json
from collections import Counter
from typing import Any

import httpx

from feedback.core.events import COMPLETIONS, FEEDBACK
from tests.serve.conftest import Gateway

LINES = "application/x-ndjson"
GZIP, ZSTD = {"content-encoding": "gzip"}, {"content-encoding": "zstd"}
Row = dict[str, Any]


def rows(name: str, count: int = 3) -> list[Row]:
    """Thumbs that no other test has."""
    return [{"prompt": f"{name} {i}", "completion": "y", "label": i % 2 == 0} for i in range(count)]


def lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def send(gateway: Gateway, body: Any, kind: str = LINES, **more: Any) -> httpx.Response:
    headers = {"content-type": kind, **more.pop("headers", {})}
    return gateway.http.post("/v1/imports", content=body, headers=headers, timeout=120, **more)


def imported(answer: httpx.Response) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()["imported"]
    return found


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


def events(gateway: Gateway) -> list[Row]:
    """What is in the log, unsealed, but for when it was written."""
    found = [each.model_dump() for each in (*gateway.completions(), *gateway.votes())]
    return sorted(({**each, "at": 0, "revision": 0} for each in found), key=lambda each: each["event_id"])


def counted(gateway: Gateway) -> Counter[str]:
    """How often each event is in the log."""
    return Counter(
        json.loads(r.value)["event_id"] for topic in (COMPLETIONS, FEEDBACK) for r in gateway.records(topic)
    )
