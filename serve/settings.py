"""Everything that can be set about a gateway process. Each field's text is its documentation everywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from deploy.engines.discovery import ENGINES, check_engines
from feedback.privacy.redaction import load_redactor
from serve.auth.keys import Consent
from serve.auth.limits import UNSET, Limits
from serve.server.addresses import parse_networks
from serve.server.bounds import NORMAL_BOUNDS, Bounds
from serve.server.hosts import is_host_pattern
from serve.wishes.holding import When

_MONTH_SECONDS = 30 * 86400


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway. Raises ValueError with what would be right when a value makes no sense."""

    data: Annotated[Path, "folder of the service's data: log, secret, routing table, keys"]
    engines: Annotated[tuple[str, ...], ENGINES]
    host: Annotated[str, "address to listen on"] = "127.0.0.1"
    port: Annotated[int, "port to listen on"] = 8000
    model_name: Annotated[str, "the one model name that clients see"] = "hearken"
    kafka: Annotated[
        str | None,
        "HOST:PORT[,HOST:PORT...] of Kafka, or a file of client settings (docs/kafka.md); without it the "
        "embedded log is used",
    ] = None
    redis: Annotated[str | None, "URL of a Redis server; without it a local file does its work"] = None
    keys: Annotated[
        Path | None, "file of API keys; without it keys.json in the data folder, if there is one"
    ] = None
    limits: Annotated[
        Limits, "limits of keys that have none of their own; without keys, of all callers together"
    ] = UNSET
    token_votes_per_minute: Annotated[
        int, "votes in a minute with one feedback token, each of a batch counted; 0: no limit"
    ] = 20
    token_vote_bytes: Annotated[int, "longest body of a vote with a feedback token, and of a webhook"] = (
        64 * 1024
    )
    webhook_senders: Annotated[
        Path | None,
        "file of who may send votes as webhooks, and their secrets (docs/webhooks.md); without it "
        "$HEARKEN_WEBHOOK_SENDERS, which holds such a file's text",
    ] = None
    cors_origins: Annotated[
        tuple[str, ...], "web pages of these origins may call the API: https://shop.example; *: all"
    ] = ()
    trusted_hosts: Annotated[
        tuple[str, ...],
        "names that clients reach the service by, like chat.example.com or *.example.com; IP addresses and "
        "names that nobody can register (localhost, without a dot, .local, .internal) always count; *: any",
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...], "proxies whose X-Forwarded-For tells users' addresses: addresses or networks"
    ] = ()
    consent: Annotated[
        Consent, "users' consent to keep their texts and learn from them: given, or asked of each request"
    ] = "given"
    blind_voters: Annotated[
        bool,
        "callers who may vote get no logprobs and no counts of cached tokens, which tell policies apart",
    ] = True
    redact: Annotated[
        str,
        "what texts go through before they are kept: none, patterns, presidio, or a function as module:name",
    ] = "none"
    default_max_tokens: Annotated[
        int | None,
        "longest answer, in tokens, to a chat that names no limit; without it the context's rest, or 1,024 "
        "tokens by `hearken up` on a CPU",
    ] = None
    max_model_len: Annotated[
        int | None, "context in tokens; only shown in /v1/models, the engine enforces its own"
    ] = None
    max_body_bytes: Annotated[int, "longest request body, well below what one entry of the log holds"] = (
        4 * 1024 * 1024
    )
    max_import_bytes: Annotated[
        int, "longest body of an import, unpacked; the rest of a larger file can be sent by itself"
    ] = 64 * 1024 * 1024
    bounds: Annotated[Bounds, "bounds on requests' headers, on slow clients and on readers that stop"] = (
        NORMAL_BOUNDS
    )
    poll_seconds: Annotated[float, "how often each engine is asked for its health and its adapters"] = 0.5
    engine_timeout_seconds: Annotated[float, "an engine that sends nothing for so long has failed"] = 300.0
    hang_seconds: Annotated[
        float, "an engine whose health check takes longer is out of use until it answers"
    ] = 10.0
    silent_seconds: Annotated[
        float, "an engine that has requests and sent nothing for so long is asked for a token"
    ] = 20.0
    max_in_flight: Annotated[
        int,
        "requests that a gateway has on one engine at a time; the others wait. No key gets all of them",
    ] = 128
    queue_length: Annotated[int, "requests that may wait; one more is refused (503)"] = 256
    queue_seconds: Annotated[
        float, "how long a request may wait, for a place or an engine, before it is refused (503)"
    ] = 10.0
    keep_alive_seconds: Annotated[
        float, "a silent stream sends a comment so often; above queue_seconds the 503 comes first"
    ] = 15.0
    conversation_seconds: Annotated[
        float,
        "an active conversation keeps its policy version: for so long after its last answer, and while the "
        "version may serve (docs/releases.md)",
    ] = 3600.0
    conversation_answers: Annotated[
        int,
        "newest answers of each tenant by which its conversations are recognised, some 250 bytes each; the "
        "oldest are forgotten first",
    ] = 200_000
    preference_entries: Annotated[
        int, "sentences that a user may ask for in every answer (docs/privacy.md); 0: none are kept or used"
    ] = 10
    preference_chars: Annotated[int, "characters that each of these sentences may have"] = 200
    preference_hold: Annotated[
        When,
        "answers are held by a grammar to such of these sentences as a program can read: in chats without a "
        "system message, in all, or in none (docs/privacy.md)",
    ] = "without_system"
    compare_share: Annotated[
        float, "share of the chats that want a comparison sparingly which show two answers (docs/api.md)"
    ] = 0.1
    compare_random_share: Annotated[
        float,
        "share of these that chance chooses, not what a vote would teach: of votes on sparing chats of users "
        "outside of a release's buckets only theirs are evidence",
    ] = 0.25
    suggestions: Annotated[
        tuple[str, ...], "questions that the chat page offers; `hearken up` has some that suit its model"
    ] = ()
    feedback_reasons: Annotated[
        tuple[str, ...], "reasons that votes may give, in place of those of docs/feedback.md"
    ] = ()
    tracing: Annotated[
        bool,
        "chats are spans and votes are evaluation events of OpenTelemetry, sent to where OTEL_* variables "
        "say (docs/tracing.md)",
    ] = False
    retention_days: Annotated[
        float, "days that completions and votes are kept in the embedded log; 0: for ever"
    ] = 90.0
    stored_days: Annotated[
        float, "days that stored chats and responses are kept, to be read again and gone on with"
    ] = 30.0
    drain_seconds: Annotated[float, "how long running answers may go on after SIGTERM"] = 4.0

    def __post_init__(self) -> None:
        check_engines(self.engines)
        if not self.model_name:
            raise ValueError("model_name is empty; clients need a name to ask for, like 'hearken'")
        for origin in self.cors_origins:
            if not _is_origin(origin):
                raise ValueError(f"origin {origin!r} must be like https://example.com, without a path, or *")
        for name in self.trusted_hosts:
            if not is_host_pattern(name):
                raise ValueError(
                    f"trusted host {name!r} must be a name like chat.example.com or *.example.com, or *"
                )
        parse_networks(self.trusted_proxies)
        load_redactor(self.redact)
        if self.poll_seconds <= 0 or self.engine_timeout_seconds <= 0 or self.max_body_bytes <= 0:
            raise ValueError("poll_seconds, engine_timeout_seconds and max_body_bytes must be above 0")
        if self.max_import_bytes <= 0:
            raise ValueError("max_import_bytes must be above 0")
        if min(self.hang_seconds, self.silent_seconds, self.queue_seconds) <= 0:
            raise ValueError("hang_seconds, silent_seconds and queue_seconds must be above 0")
        if self.default_max_tokens is not None:
            if self.default_max_tokens < 1:
                raise ValueError(f"default_max_tokens is {self.default_max_tokens}; it must be at least 1")
            if self.max_model_len is not None and self.default_max_tokens > self.max_model_len:
                raise ValueError(
                    f"default_max_tokens is {self.default_max_tokens}, more than max_model_len, "
                    f"{self.max_model_len}; an engine would refuse every chat"
                )
        if self.token_votes_per_minute < 0 or self.token_vote_bytes < 1:
            raise ValueError("token_votes_per_minute must be 0 (no limit) or more, token_vote_bytes above 0")
        if self.keep_alive_seconds <= 0:
            raise ValueError("keep_alive_seconds must be above 0")
        if not 0 < self.conversation_seconds <= _MONTH_SECONDS:
            raise ValueError(
                f"conversation_seconds is {self.conversation_seconds}; it must be above 0 and at most "
                f"{_MONTH_SECONDS}, 30 days"
            )
        if self.conversation_answers < 1:
            raise ValueError(f"conversation_answers is {self.conversation_answers}; it must be at least 1")
        if self.preference_entries < 0 or self.preference_chars < 1:
            raise ValueError("preference_entries must be 0 (none) or more, preference_chars at least 1")
        if not (0 <= self.compare_share <= 1 and 0 <= self.compare_random_share <= 1):
            raise ValueError("compare_share and compare_random_share are shares, between 0 and 1")
        if self.retention_days < 0:
            raise ValueError(f"retention_days is {self.retention_days}; it must be 0 (for ever) or more")
        if self.stored_days <= 0:
            raise ValueError(f"stored_days is {self.stored_days}; it must be above 0, clients ask with store")
        if self.max_in_flight < 1 or self.queue_length < 0:
            raise ValueError("max_in_flight must be at least 1, and queue_length 0 or more")
        for reason in self.feedback_reasons:
            if not (0 < len(reason) <= 64 and reason.isprintable()):
                raise ValueError(f"feedback reason {reason!r} must have 1 to 64 printable characters")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds is {self.drain_seconds}; it must be 0 or more")

    @property
    def preference_bounds(self) -> tuple[int, int]:
        """Entries that a user may have, and characters of an entry."""
        return self.preference_entries, self.preference_chars

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
