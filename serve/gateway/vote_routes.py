"""The routes of feedback, of its receipts, and of webhooks that bring it, made of the gateway's services."""

from starlette.routing import Route

from feedback.core.ids import Signer
from feedback.shared import SharedStore
from serve.gateway.wiring import Gate, Records
from serve.http.idempotency import Idempotency
from serve.settings import GatewaySettings
from serve.votes.api import FeedbackApi
from serve.votes.common import REASONS
from serve.votes.receipt_api import ReceiptApi
from serve.votes.routes import FeedbackRoutes
from serve.votes.voters import Voters
from serve.webhooks.order import Order
from serve.webhooks.receiver import WebhookRoutes
from serve.webhooks.senders import load_senders


def vote_routes(
    settings: GatewaySettings, signer: Signer, shared: SharedStore, gate: Gate, records: Records
) -> list[Route]:
    """See above. Raises BadWebhookSenders."""
    idempotency = Idempotency(shared)
    feedback = FeedbackApi(
        signer,
        Voters(signer, gate.tokens),
        records.recorder,
        records.privacy,
        idempotency,
        records.receipts,
        settings.feedback_reasons or REASONS,
        gate.senders.take_votes,
        records.preferences,
    )
    routes = FeedbackRoutes(
        gate.senders,
        gate.entrance,
        gate.addresses,
        records.privacy,
        feedback,
        settings.max_body_bytes,
        settings.token_vote_bytes,
    )
    receipts = ReceiptApi(records.receipts, records.recorder, signer, gate.senders, gate.access)
    webhooks = WebhookRoutes(
        load_senders(settings.webhook_senders, settings.limits),
        gate.addresses,
        records.privacy,
        feedback,
        records.recorder,
        records.receipts,
        idempotency,
        Order(shared),
        gate.senders.take_votes,
        settings.token_vote_bytes,
    )
    return [*routes.routes, *receipts.routes, *webhooks.routes]
