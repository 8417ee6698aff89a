"""Chats as spans and votes as evaluation events, in the terms of OpenTelemetry's conventions."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.trace import SpanKind, StatusCode

from feedback.core.ids import Signer
from feedback.core.log import EventLog
from feedback.shared import SharedStore
from serve.app import create_app
from serve.settings import GatewaySettings
from serve.storage.redis import open_stored
from serve.tracing import Traced, Tracing, vote_attributes
from serve.tracing_export import NoTracing, exporting
from tests.serve.conftest import SECRET, Gateway, Server, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble

ROOT = Path(__file__).parents[2]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Told:
    """A gateway with tracing, and what it told."""

    def __init__(
        self, gateway: Gateway, spans: InMemorySpanExporter, events: InMemoryLogRecordExporter
    ) -> None:
        self.gateway = gateway
        self._spans = spans
        self._events = events

    def spans(self) -> list[Any]:
        return list(self._spans.get_finished_spans())

    def events(self) -> list[Any]:
        return [each.log_record for each in self._events.get_finished_logs()]


@contextmanager
def traced(data: Path, log: EventLog, shared: SharedStore, engine: str) -> Iterator[Told]:
    spans, events = TracerProvider(), LoggerProvider()
    seen, heard = InMemorySpanExporter(), InMemoryLogRecordExporter()
    spans.add_span_processor(SimpleSpanProcessor(seen))
    events.add_log_record_processor(SimpleLogRecordProcessor(heard))
    settings = GatewaySettings(data=data, engines=(engine,), poll_seconds=0.05, queue_seconds=0.3)
    stored = open_stored(data, None, 3600)
    tracing = Tracing(spans, events, settings.model_name)
    app = create_app(settings, log, shared, Signer(SECRET), stored, tracing=tracing)
    app.add_middleware(Traced)
    with Server(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        gateway = Gateway(url, data, log, Signer(SECRET), http)
        eventually(gateway.is_ready, "the gateway is ready")
        yield Told(gateway, seen, heard)
    stored.close()
    spans.shutdown()
    events.shutdown()


@pytest.fixture
def told(tmp_path: Path, fake: FakeVllm, log: EventLog, shared: SharedStore) -> Iterator[Told]:
    with traced(tmp_path, log, shared, fake.url) as running:
        yield running


def test_a_chat_is_a_span_of_the_trace_that_asked(told: Told) -> None:
    body: dict[str, Any] = {"model": "hearken", "messages": [{"role": "user", "content": "secret words"}]}
    body |= {"user": "grace", "temperature": 0.5, "max_tokens": 20, "metadata": {"episode_id": "talk-1"}}
    answer = told.gateway.http.post("/v1/chat/completions", json=body, headers=SENT).json()
    told.gateway.http.post("/v1/completions", json={"model": "hearken", "prompt": "hi"})
    for _ in told.gateway.openai.chat.completions.create(
        model="hearken", messages=[{"role": "user", "content": "hi"}], stream=True
    ):
        pass
    eventually(lambda: len(told.spans()) == 3, "three spans")
    span, text, streamed = told.spans()
    assert (span.name, span.kind) == ("chat hearken", SpanKind.CLIENT)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    event = told.gateway.completion(answer["id"])
    said = dict(span.attributes)
    assert said[names.GEN_AI_OPERATION_NAME] == "chat"
    assert said[names.GEN_AI_REQUEST_MODEL] == "hearken"
    assert said[names.GEN_AI_REQUEST_TEMPERATURE] == 0.5
    assert said[names.GEN_AI_REQUEST_MAX_TOKENS] == 20
    assert said[names.GEN_AI_RESPONSE_ID] == answer["id"]
    assert said[names.GEN_AI_RESPONSE_MODEL] == event.policy_version
    assert said[names.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    assert said[names.GEN_AI_USAGE_INPUT_TOKENS] == answer["usage"]["prompt_tokens"]
    assert said[names.GEN_AI_USAGE_OUTPUT_TOKENS] == answer["usage"]["completion_tokens"]
    assert said[names.GEN_AI_CONVERSATION_ID] == "talk-1"
    assert said[names.GEN_AI_PROVIDER_NAME] == said["gen_ai.provider.name"] == "hearken"
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(event.latency_seconds, abs=1e-6)
    assert not [value for value in map(str, said.values()) if "secret words" in value or "grace" in value]
    assert text.attributes[names.GEN_AI_OPERATION_NAME] == "text_completion"
    assert text.parent is None
    assert streamed.attributes[names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] > 0


def test_a_chat_that_fails_is_a_span_with_its_error(told: Told) -> None:
    assert told.gateway.chat(Trouble.GARBLE).status_code >= 400
    eventually(told.spans, "a span")
    [span] = told.spans()
    assert span.status.status_code == StatusCode.ERROR
    assert span.attributes["error.type"]


def test_a_vote_is_an_evaluation_of_the_answer(told: Told) -> None:
    one, two = (told.gateway.signer.new_completion_id() for _ in range(2))
    votes: list[dict[str, Any]] = [
        {"kind": "thumbs", "completion_id": one, "value": "up", "user": "ada", "comment": "secret words"},
        {"kind": "rating", "completion_id": one, "value": 4, "user": "ada"},
        {"kind": "comparison", "a": one, "b": two, "preferred": "b", "user": "ada"},
        {"kind": "metric", "episode_id": "talk-1", "name": "resolved", "value": True, "user": "ada"},
        {"kind": "stars", "completion_id": one},
    ]
    answer = told.gateway.http.post("/v1/feedback", json=votes[0], headers=SENT)
    told.gateway.http.post("/v1/feedback", json=votes[1:])
    events = told.events()
    said = [dict(event.attributes) for event in events]
    assert {event.event_name for event in events} == {"gen_ai.evaluation.result"}
    assert f"{events[0].trace_id:032x}" == TRACE
    assert said[0] == {
        names.GEN_AI_EVALUATION_NAME: "thumbs",
        names.GEN_AI_EVALUATION_SCORE_LABEL: "up",
        names.GEN_AI_EVALUATION_SCORE_VALUE: 1.0,
        names.GEN_AI_RESPONSE_ID: one,
        "hearken.feedback.id": answer.json()["id"],
        "hearken.feedback.source": "end_user",
    }
    told_of = [
        (
            each[names.GEN_AI_EVALUATION_NAME],
            each.get(names.GEN_AI_RESPONSE_ID),
            each["gen_ai.evaluation.score.value"],
        )
        for each in said[1:]
    ]
    assert told_of == [
        ("rating", one, 0.75),
        ("comparison", one, 0.0),
        ("comparison", two, 1.0),
        ("metric.resolved", None, 1.0),
    ]
    assert said[4][names.GEN_AI_CONVERSATION_ID] == "talk-1"


def test_what_has_no_scale_has_no_score() -> None:
    event = {"kind": "metric", "name": "cost", "label": "measured", "value": 0.5, "event_id": "fb-1"}
    event |= {"source": "app", "targets": [{"completion_id": "chatcmpl-1"}]}
    [said] = vote_attributes(event)
    assert names.GEN_AI_EVALUATION_SCORE_VALUE not in said


def test_without_tracing_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, serve.tracing_export as _; print('opentelemetry' in sys.modules, 'serve' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with exporting(False, "hearken") as tracing:
        assert tracing is None


def test_spans_leave_for_the_collector_that_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    with collector() as (url, bodies):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with exporting(True, "hearken") as tracing:
            assert tracing is not None
            tracing.votes(
                [
                    {
                        "kind": "thumbs",
                        "label": "up",
                        "value": 1.0,
                        "event_id": "fb-1",
                        "at": 1.0,
                        "source": "end_user",
                        "targets": [{"completion_id": "chatcmpl-1"}],
                    }
                ]
            )
    assert "/v1/logs" in bodies
    assert b"gen_ai.evaluation.result" in bodies["/v1/logs"]
    assert b"shop" in bodies["/v1/logs"]


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(NoTracing, match="hearken\\[otel\\]"), exporting(True, "hearken"):
        pass


@contextmanager
def collector() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An OTLP endpoint: its URL, and the bodies by their paths."""
    import gzip
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    bodies: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            bodies[self.path] = gzip.decompress(body) if packed else body
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()
