"""Who may vote is not shown logprobs: exact ones differ by policy for the same text, and so name the arm.

Rounded ones would too, only after more tokens: two policies that differ by .05 nats a token fall on two sides
of a rounding to 1 nat in one token of twenty. Counts of cached tokens are kept back for a like reason, see
serve/generation/generation.py. What the texts themselves give away stays, and how long they take.
"""

from serve.auth.caller import Caller
from serve.generation.requests import ChatRequest
from serve.http.errors import BadRequest


def check_blind(asked: ChatRequest, caller: Caller) -> None:
    """Raises BadRequest for a request for logprobs of a caller who may vote."""
    if caller.is_blind and asked.wants_logprobs:
        raise BadRequest(
            "logprobs are not for those who may vote, because they tell policies apart: leave them out, use "
            "a key without the scope feedback, or let the operator set gateway.blind_voters = false.",
            param="logprobs",
            code="unsupported_parameter",
        )
