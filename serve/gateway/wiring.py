"""The services of a gateway, made once and given to its routes."""

from dataclasses import dataclass

from deploy.engines.discovery import Resolve, addresses
from feedback.core.ids import Signer
from feedback.core.log import EventLog
from feedback.opening import open_sealer
from feedback.privacy.redaction import load_redactor
from feedback.privacy.sealing import Sealer
from feedback.shared import SharedStore
from serve.auth.access import Access
from serve.auth.entrance import Entrance
from serve.auth.feedback_tokens import Tokens
from serve.auth.metering import Metering
from serve.auth.windows import LocalWindows, RedisWindows, Windows
from serve.completions.chat import Chat
from serve.completions.comparisons import Comparisons
from serve.completions.conversations import Conversations
from serve.completions.sparing import HintReader, Sparing
from serve.engines.pool import Fleet
from serve.engines.upstream import Upstream
from serve.generation.blame import Blame
from serve.metrics import Metrics
from serve.preferences.api import Preferences
from serve.preferences.store import PreferenceStore
from serve.receipts.reader import Receipts
from serve.receipts.store import ReceiptStore
from serve.routing.following import TableFollower
from serve.routing.leases import Leases
from serve.routing.marks import open_marks
from serve.server.addresses import Addresses
from serve.settings import GatewaySettings
from serve.storage.answers import StoredAnswers
from serve.storage.privacy import Privacy
from serve.storage.recording import Recorder
from serve.storage.stored import StoredCompletions
from serve.tracing import Tracing
from serve.votes.voters import Senders


@dataclass(frozen=True, slots=True)
class Gate:
    """What tells who sent a request, and how much they may."""

    access: Access
    addresses: Addresses
    windows: Windows
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
    windows: Windows = LocalWindows()
    if settings.redis is not None:
        windows = RedisWindows(settings.redis, metrics.limits_alone)
    metering = Metering(windows, metrics)
    tokens = Tokens(signer, access.still_trusts)
    entrance = Entrance(access, addresses, metering, signer)
    per_minute = settings.token_votes_per_minute
    senders = Senders(access, entrance, addresses, metering, tokens, settings.cors_origins, per_minute)
    return Gate(access, addresses, windows, metering, tokens, entrance, senders)


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
    hints: HintReader
    comparisons: Comparisons


def open_model(
    settings: GatewaySettings,
    events: EventLog,
    shared: SharedStore,
    signer: Signer,
    gate: Gate,
    records: Records,
    metrics: Metrics,
    resolve: Resolve = addresses,
) -> Model:
    """The model behind `settings.engines`, under the routing tables of the log."""
    leases = Leases(shared, settings.conversation_seconds)
    upstream = Upstream(settings.engine_timeout_seconds)
    fleet = Fleet(settings, upstream, metrics, resolve)
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
    sparing = Sparing(settings.compare_share, settings.compare_random_share)
    hints = HintReader(events, sparing)
    comparisons = Comparisons(chat, signer, sparing, hints, metrics)
    return Model(leases, upstream, fleet, follower, conversations, chat, hints, comparisons)
