"""What a gateway tells OpenTelemetry, in the terms of its conventions for generative AI.

A generation is a span, told when it is over with the times that its event has; a vote is an event
`gen_ai.evaluation.result` that names the answer by `gen_ai.response.id`. Neither has users' words or names.
Both are children of the trace that the request's `traceparent` names. A gateway without tracing has no
`Tracing`, and loads nothing for it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from feedback.core.events import Completion

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.trace import TracerProvider

Json = dict[str, Any]
Attributes = dict[str, str | int | float | list[str]]

EVALUATION = "gen_ai.evaluation.result"
_PROVIDER = "hearken"
_SOURCE = "hearken.gateway"
_NANOSECONDS = 1_000_000_000


class Tracing:
    """Tells of generations and votes. The providers stay the caller's to shut down."""

    def __init__(self, spans: "TracerProvider", events: "LoggerProvider", model_name: str) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        self._tracer = spans.get_tracer(_SOURCE)
        self._logger = events.get_logger(_SOURCE)
        self._model_name = model_name
        self._kind = SpanKind.CLIENT  # the gateway is the client of its engines
        self._error = StatusCode.ERROR

    def generation(self, event: Completion, is_chat: bool) -> None:
        """A generation is over; `event.failure` says why where it has no answer."""
        operation = "chat" if is_chat else "text_completion"
        end = int(event.at * _NANOSECONDS)
        span = self._tracer.start_span(
            f"{operation} {self._model_name}",
            kind=self._kind,
            start_time=end - int(event.latency_seconds * _NANOSECONDS),
            attributes={"gen_ai.operation.name": operation, **span_attributes(event, self._model_name)},
        )
        if event.failure is not None:
            span.set_status(self._error)
        span.end(end)

    def votes(self, events: Iterable[Json]) -> None:
        """Votes are durable."""
        for event in events:
            for attributes in vote_attributes(event):
                self._logger.emit(
                    timestamp=int(event["at"] * _NANOSECONDS), event_name=EVALUATION, attributes=attributes
                )


def span_attributes(event: Completion, model_name: str) -> Attributes:
    """What a generation's span says beside its operation."""
    sampling, choices = event.sampling, event.choices
    known: dict[str, Any] = {
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": model_name,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": len(choices) if len(choices) > 1 else None,
        "gen_ai.conversation.id": event.episode_id,
        "gen_ai.response.id": event.completion_id,
        "gen_ai.response.model": event.policy_version,
        "gen_ai.response.finish_reasons": [each.finish_reason or "" for each in choices] or None,
        "gen_ai.response.time_to_first_chunk": event.ttft_seconds,
        "gen_ai.usage.input_tokens": len(event.prompt_token_ids) or None,
        "gen_ai.usage.output_tokens": sum(len(each.token_ids) for each in choices),
        "hearken.arm": event.arm,
        "hearken.role": event.role,
        "error.type": event.failure,
    }
    return {name: value for name, value in known.items() if value is not None}


def vote_attributes(event: Json) -> Iterable[Attributes]:
    """What the events about a vote say: one for each answer that the vote names by its id.

    The score goes from 0 to 1. Of a comparison it is the answer's own: 1 for the one that was preferred.
    """
    name = f"{event['kind']}.{event['name']}" if event.get("name") else event["kind"]
    for index, target in enumerate(event["targets"]):
        said: Json = {
            "gen_ai.evaluation.name": name,
            "gen_ai.evaluation.score.label": event["label"],
            "gen_ai.response.id": target.get("completion_id") or None,
            "gen_ai.conversation.id": target.get("episode_id"),
            "hearken.external_id": target.get("external_id"),
            "hearken.feedback.id": event["event_id"],
            "hearken.feedback.source": event["source"],
        }
        score = _score(event, index)
        if score is not None:
            said["gen_ai.evaluation.score.value"] = score
        yield {name: value for name, value in said.items() if value is not None}


def _score(event: Mapping[str, Any], index: int) -> float | None:
    """How good a vote finds one of its answers, from 0 to 1; None where it says no such thing."""
    if event["kind"] in ("thumbs", "rating") or (event["kind"] == "metric" and event.get("scale")):
        return float(event["value"])
    if event["kind"] == "comparison":
        return float(event["value"] if index == 0 else 1.0 - event["value"])
    return None


class Traced:
    """ASGI middleware: what a request tells belongs to the trace that its headers name."""

    def __init__(self, app: ASGIApp) -> None:
        from opentelemetry import context, propagate

        self._app = app
        self._context = context
        self._propagate = propagate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        token = self._context.attach(self._propagate.extract(headers))
        try:
            await self._app(scope, receive, send)
        finally:
            self._context.detach(token)
