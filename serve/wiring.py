"""The services of a gateway, made once and given to its routes."""

from dataclasses import dataclass

from feedback.ids import Signer
from feedback.log import EventLog
from feedback.opening import open_sealer
from feedback.redaction import load_redactor
from feedback.sealing import Sealer
from feedback.shared import SharedStore
from serve.access import Access
from serve.addresses import Addresses
from serve.blame import Blame
from serve.chat import Chat
from serve.conversations import Conversations
from serve.engines import Fleet
from serve.entrance import Entrance
from serve.feedback_tokens import Tokens
from serve.following import TableFollower
from serve.leases import Leases
from serve.marks import open_marks
from serve.metering import Metering
from serve.metrics import Metrics
from serve.preference_store import PreferenceStore
from serve.preferences_api import Preferences
from serve.privacy import Privacy
from serve.receipt_store import ReceiptStore
from serve.receipts import Receipts
from serve.recording import Recorder
from serve.senders import Senders
from serve.settings import GatewaySettings
from serve.stored import StoredCompletions
from serve.stored_answers import StoredAnswers
from serve.tracing import Tracing
from serve.upstream import Upstream
from serve.windows import LocalWindows, RedisWindows


@dataclass(frozen=True, slots=True)
class Gate:
    """What tells who sent a request, and how much they may."""

    access: Access
    addresses: Addresses
    metering: Metering
    tokens: Tokens
    entrance: Entrance
    senders: Senders


def open_gate(settings: GatewaySettings, signer: Signer, metrics: Metrics) -> Gate:
    """Raises KeysUnusable for a key file that cannot be used."""
    access = Access(
        settings.key_file,
        settings.keys is not None,
        settings.limits,
        metrics,
        settings.consent,
        settings.blind_voters,
    )
    addresses = Addresses(settings.trusted_proxies)
    windows = LocalWindows() if settings.redis is None else RedisWindows(settings.redis, metrics.limits_alone)
    metering = Metering(windows, metrics)
    tokens = Tokens(signer, access.still_trusts)
    entrance = Entrance(access, addresses, metering, signer)
    per_minute = settings.token_votes_per_minute
    senders = Senders(access, entrance, addresses, metering, tokens, settings.cors_origins, per_minute)
    return Gate(access, addresses, metering, tokens, entrance, senders)


@dataclass(frozen=True, slots=True)
class Records:
    """What writes down what happened, and finds it again."""

    sealer: Sealer
    privacy: Privacy
    recorder: Recorder
    receipts: Receipts
    answers: StoredAnswers
    lists: PreferenceStore
    preferences: Preferences


def open_records(
    settings: GatewaySettings,
    events: EventLog,
    signer: Signer,
    stored: StoredCompletions,
    gate: Gate,
    metrics: Metrics,
    tracing: Tracing | None = None,
) -> Records:
    """The records in a service's data folder, its log and its store of answers."""
    sealer = open_sealer(settings.data)
    privacy = Privacy(signer, sealer, load_redactor(settings.redact))
    recorder = Recorder(events, privacy, metrics, gate.metering.charge, tracing)
    receipts = Receipts(events, ReceiptStore(settings.data / "receipts.db"))
    lists = PreferenceStore(settings.data / "vault", sealer)
    preferences = Preferences(signer, privacy, lists, settings.preference_bounds, metrics)
    answers = StoredAnswers(stored, privacy)
    return Records(sealer, privacy, recorder, receipts, answers, lists, preferences)


@dataclass(frozen=True, slots=True)
class Model:
    """What answers chats: the engines, and the policy version that each user gets."""

    leases: Leases
    upstream: Upstream
    fleet: Fleet
    follower: TableFollower
    conversations: Conversations
    chat: Chat


def open_model(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    signer: Signer,
    gate: Gate,
    records: Records,
    metrics: Metrics,
) -> Model:
    """The model behind `settings.engines`, under the routing tables of the log."""
    leases = Leases(shared, settings.conversation_seconds)
    upstream = Upstream(settings.engine_timeout_seconds)
    fleet = Fleet(settings, upstream, metrics)
    follower = TableFollower(events, settings.data / "table.json", fleet, leases, metrics)
    marks = open_marks(
        settings.data / "conversations.db",
        settings.redis,
        settings.conversation_seconds,
        settings.conversation_answers,
    )
    conversations = Conversations(signer, marks, follower, fleet, leases, metrics)
    chat = Chat(
        settings.model_name,
        signer,
        follower,
        fleet,
        upstream,
        Blame(settings.model_name, metrics, gate.metering.strike, 2 * settings.hang_seconds),
        records.recorder,
        leases,
        records.answers,
        conversations,
        metrics,
    )
    return Model(leases, upstream, fleet, follower, conversations, chat)
