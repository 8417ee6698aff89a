"""Everything that can be set about a gateway process."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway. Raises ValueError with what would be right when a value makes no sense."""

    data: Path  # log, secret, table.json
    engines: tuple[str, ...]  # base URLs of vLLM servers, for example ("http://127.0.0.1:8001",)
    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "hearken"  # the one model name that clients see
    kafka: str | None = None  # bootstrap servers, "host:port,..."; None: the embedded log alone
    redis: str | None = None  # redis://...; None: shared state lives in data/shared.db
    max_model_len: int | None = None  # tokens; only shown in /v1/models, the engine enforces its own
    max_body_bytes: int = 4 * 1024 * 1024  # well below what one log entry holds
    poll_seconds: float = 0.5  # how often each engine is asked for its health and its adapters
    engine_timeout_seconds: float = 300.0  # an engine that sends nothing for so long has failed
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
        if self.poll_seconds <= 0 or self.engine_timeout_seconds <= 0 or self.max_body_bytes <= 0:
            raise ValueError("poll_seconds, engine_timeout_seconds and max_body_bytes must be above 0")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds is {self.drain_seconds}; it must be 0 or more")
