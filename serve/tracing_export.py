"""Where a gateway's spans and events go: by OTLP over HTTP to where the OTEL_* variables say.

OpenTelemetry's own variables set all of it (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ..), so there is no second way to say it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from serve.tracing import Tracing

NEEDED = "gateway.tracing needs OpenTelemetry: pip install 'hearken[otel]', or leave gateway.tracing off"


class NoTracing(Exception):
    """OpenTelemetry is not installed."""


@contextmanager
def exporting(on: bool, model_name: str) -> Iterator[Tracing | None]:
    """Tracing while the block lasts, None where it is off; what was told leaves before the block does.

    Raises NoTracing. A collector that is away costs what is told meanwhile, and no request.
    """
    if not on:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NoTracing(NEEDED) from error
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "hearken"}))
    spans, events = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    events.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    try:
        yield Tracing(spans, events, model_name)
    finally:
        spans.shutdown()
        events.shutdown()
