"""What a client hears of a request that failed at an engine, and whose fault that was.

vLLM answers some bodies with a 5xx (a grammar that it cannot compile, a number that overflows), and then goes
on well. So an engine's error says nothing of the engine: the gateway asks it for a token
(serve/engines/watching.py), and when it has one, the body is at fault. That is told to the client as a 400,
which clients do not send again, and counted to the key; what a key may send of them in a minute is limited
(serve/auth/limits.py).
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from serve.auth.caller import Caller
from serve.engines.upstream import Failed, Refused, UpstreamError
from serve.generation.generation import Route
from serve.generation.requests import ChatRequest
from serve.http.errors import ApiError, BadRequest, engine_unavailable, from_upstream
from serve.metrics import Metrics

log = logging.getLogger(__name__)

MAX_TENANTS = 100
"""Names of tenants in one metric; those that come later are counted together, as `others`."""

# What vLLM has failed with so far; the first that a body has is named.
_SUSPECTS = (
    *("structured_outputs", "response_format", "tools", "use_beam_search", "length_penalty"),
    *("allowed_token_ids", "bad_words", "logit_bias", "repetition_penalty"),
)


class Blame:
    """Says what went wrong.

    `charge` puts a request that was at fault on its key's account. `patience_seconds`: how long a client
    waits for the engine's answer to the gateway's question; after it the engine is taken to be at fault.
    """

    def __init__(
        self,
        model_name: str,
        metrics: Metrics,
        charge: Callable[[Caller], None],
        patience_seconds: float,
    ) -> None:
        self._model_name = model_name
        self._metrics = metrics
        self._charge = charge
        self._patience_seconds = patience_seconds
        self._tenants: set[str] = set()

    async def told(self, failure: UpstreamError, asked: ChatRequest, route: Route) -> ApiError:
        """What a client hears of a failure that is not tried again."""
        if isinstance(failure, Failed) and failure.fault is not None:
            # Whether the client waits or not: who leaves early is counted as well.
            failure.fault.add_done_callback(partial(self._count, route.caller, failure))
            await asyncio.wait([failure.fault], timeout=self._patience_seconds)
            if failure.fault.done() and not failure.fault.result():
                return _unprocessable(asked)
        elif isinstance(failure, Refused):
            return from_upstream(
                failure.status, failure.body, route.version, self._model_name, asked.body, asked.prompt_field
            )
        return engine_unavailable()

    def _count(self, caller: Caller, failure: Failed, fault: asyncio.Future[bool]) -> None:
        if fault.cancelled() or fault.result():
            return
        tenant = caller.tenant
        if tenant not in self._tenants and len(self._tenants) >= MAX_TENANTS:
            tenant = "others"
        self._tenants.add(tenant)
        self._metrics.unprocessable.labels(tenant).inc()
        self._charge(caller)
        log.warning("an engine cannot process a request of the key %r: %s", caller.key_id, failure)


def _unprocessable(asked: ChatRequest) -> BadRequest:
    suspect = next((field for field in _SUSPECTS if asked.body.get(field)), None)
    hint = f"change or leave out {suspect}" if suspect else "change its fields or its messages"
    return BadRequest(
        f"The model server cannot process this request, though it answers others: {hint}.",
        param=suspect,
        code="unprocessable_request",
    )
