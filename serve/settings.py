"""Everything that can be set about a gateway process."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from feedback.redaction import load_redactor
from serve.keys import Consent
from serve.limits import UNSET, Limits


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway. Raises ValueError with what would be right when a value makes no sense."""

    data: Path  # log, secret, table.json, keys.json
    engines: tuple[str, ...]  # base URLs of vLLM servers, for example ("http://127.0.0.1:8001",)
    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "hearken"  # the one model name that clients see
    kafka: str | None = None  # bootstrap servers, "host:port,..."; None: the embedded log alone
    redis: str | None = None  # redis://...; None: shared state lives in data/shared.db
    keys: Path | None = None  # the key file; None: keys.json in the data folder, if there is one
    limits: Limits = UNSET  # where a key has none of its own; without keys, of all callers together
    cors_origins: tuple[str, ...] = ()  # whose web pages may call: ("https://shop.example",); ("*",): all
    consent: Consent = "given"  # of requests that say nothing, where a key does not tell either
    redact: str = (
        "none"  # "patterns", or "package.module:function": what texts go through before they are kept
    )
    max_model_len: int | None = None  # tokens; only shown in /v1/models, the engine enforces its own
    max_body_bytes: int = 4 * 1024 * 1024  # well below what one log entry holds
    poll_seconds: float = 0.5  # how often each engine is asked for its health and its adapters
    engine_timeout_seconds: float = 300.0  # an engine that sends nothing for so long has failed
    hang_seconds: float = 10.0  # an engine whose health check takes longer is out of use until it answers
    silent_seconds: float = 20.0  # one that has requests and sent nothing for so long is asked for a token
    max_in_flight: int = 128  # requests that this gateway has on one engine at a time; the others wait
    queue_length: int = 256  # requests that may wait; one more is a 503 at once
    queue_seconds: float = 10.0  # how long a request may wait for a place, or for an engine to come back
    keep_alive_seconds: float = 15.0  # a silent stream sends a comment; later than queue_seconds, a 503
    feedback_reasons: tuple[str, ...] = ()  # that votes may give; none: those of serve/votes.py
    retention_days: float = 90.0  # of completions and votes in the embedded log; 0: for ever
    drain_seconds: float = 4.0  # how long running answers may go on after SIGTERM

    def __post_init__(self) -> None:
        if not self.engines:
            raise ValueError("no engines: name at least one vLLM server, like http://127.0.0.1:8001")
        for url in self.engines:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"engine {url!r} is not a URL; write it like http://127.0.0.1:8001")
        if len(set(self.engines)) != len(self.engines):
            raise ValueError(f"an engine is named twice: {', '.join(self.engines)}")
        if not self.model_name:
            raise ValueError("model_name is empty; clients need a name to ask for, like 'hearken'")
        for origin in self.cors_origins:
            if not _is_origin(origin):
                raise ValueError(f"origin {origin!r} must be like https://example.com, without a path, or *")
        load_redactor(self.redact)
        if self.poll_seconds <= 0 or self.engine_timeout_seconds <= 0 or self.max_body_bytes <= 0:
            raise ValueError("poll_seconds, engine_timeout_seconds and max_body_bytes must be above 0")
        if min(self.hang_seconds, self.silent_seconds, self.queue_seconds) <= 0:
            raise ValueError("hang_seconds, silent_seconds and queue_seconds must be above 0")
        if self.keep_alive_seconds <= 0:
            raise ValueError("keep_alive_seconds must be above 0")
        if self.retention_days < 0:
            raise ValueError(f"retention_days is {self.retention_days}; it must be 0 (for ever) or more")
        if self.max_in_flight < 1 or self.queue_length < 0:
            raise ValueError("max_in_flight must be at least 1, and queue_length 0 or more")
        for reason in self.feedback_reasons:
            if not (0 < len(reason) <= 64 and reason.isprintable()):
                raise ValueError(f"feedback reason {reason!r} must have 1 to 64 printable characters")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds is {self.drain_seconds}; it must be 0 or more")

    @property
    def key_file(self) -> Path:
        """Where API keys are."""
        return self.keys or self.data / "keys.json"


def _is_origin(text: str) -> bool:
    """Whether a browser could send this as a page's origin."""
    if text == "*":
        return True
    parts = urlsplit(text)
    return (
        parts.scheme in ("http", "https")
        and bool(parts.netloc)
        and text == f"{parts.scheme}://{parts.netloc}"
    )
