"""The gateway's part in a shadow: the candidate answers some prompts of users as well, and nobody sees that.

What it says is looked at here and forgotten: it is in no log, has no id to vote by, and nothing is learned
from it. The log gets what both answers were like, without a word or a name (deploy/history/shadowed.py). So
there is nothing of it to erase, and prompts whose texts may not be kept are not used at all.
"""

import asyncio
import logging
import random
import time
import uuid
from typing import NamedTuple

import orjson

from deploy.history.shadowed import Shadowed, Traits, traits
from deploy.history.states import Shadow
from serve.engines.attempts import Want
from serve.engines.pool import Fleet
from serve.engines.upstream import CHAT_PATH, PolicyMissing, Refused, Upstream, UpstreamError
from serve.generation.answers import Transcript
from serve.generation.generation import Generation, consents
from serve.generation.requests import passed_on
from serve.http.errors import ApiError
from serve.metrics import Metrics
from serve.routing.following import TableFollower
from serve.routing.leases import Leases
from serve.storage.recording import Recorder

log = logging.getLogger(__name__)

MISSHAPEN = (KeyError, TypeError, ValueError)
"""What reading an engine's answer raises that is not of vLLM's shape."""

AT_A_TIME = 4
"""Prompts that the candidate answers at a time, of this gateway."""


class _Asked(NamedTuple):
    """A prompt that is to be answered again. body: what its engine gets, but for the model."""

    shadow: Shadow
    live: Traits
    body: dict[str, object]
    key_id: str
    conversation: bytes


class Shadowing:
    """Asks the candidate for answers while there is a shadow; nobody waits for it."""

    def __init__(
        self,
        follower: TableFollower,
        fleet: Fleet,
        upstream: Upstream,
        recorder: Recorder,
        leases: Leases,
        metrics: Metrics,
    ) -> None:
        self._follower, self._fleet, self._upstream = follower, fleet, upstream
        self._recorder, self._leases, self._metrics = recorder, leases, metrics
        self._number = 0  # of the shadow
        self._told = 0  # pairs that this gateway told of it
        self._failed = 0  # the newest shadow in which the candidate failed where live did not
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(self, generation: Generation) -> None:
        """Have the candidate answer the prompt of a chat that is over and logged, if it is one to take. Never
        raises, and does not wait."""
        shadow = self._follower.shadow
        if shadow is None or not self._takes(shadow, generation):
            return
        [choice] = generation.transcript.choices()
        asked, route = generation.asked, generation.route
        live = traits(choice.text, shadow, choice.answer_length, generation.seconds)
        body = passed_on(asked, shadow.version, route.cache_salt, route.seed) | {"logprobs": True}
        body = {name: value for name, value in body.items() if not name.startswith("stream")}
        task = asyncio.create_task(
            self._compare(_Asked(shadow, live, body, route.caller.key_id, asked.conversation))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _takes(self, shadow: Shadow, generation: Generation) -> bool:
        if shadow.number != self._number:
            self._number, self._told = shadow.number, 0
        asked, route = generation.asked, generation.route
        return (
            route.version == shadow.live
            and (route.comparison_id is None or (route.selected and route.role == "answer"))
            and asked.path == CHAT_PATH
            and generation.unfinished is None
            and len(generation.transcript.choices()) == 1
            and consents(asked, route.caller)
            and self._told + len(self._tasks) < shadow.prompts
            and len(self._tasks) < AT_A_TIME
            and not self._fleet.waiting  # users come first
            # An engine on which it failed is taken to lack it. Its users would get no answer, so that counts.
            and (self._fleet.has(shadow.version) or self._failed == shadow.number)
            and random.random() < shadow.share
        )

    async def _compare(self, asked: _Asked) -> None:
        """Get the candidate's answer and tell what it was like; nothing where an engine is at fault."""
        try:
            candidate = await self._answer(asked)
        except (UpstreamError, ApiError, *MISSHAPEN) as error:
            log.info("no answer in the shadow of %s: %s", asked.shadow.version, error)
            self._metrics.shadowed.labels("dropped").inc()
            return
        self._metrics.shadowed.labels("told").inc()
        self._told += 1
        event = Shadowed(
            event_id=f"shadowed-{uuid.uuid4().hex}",
            at=time.time(),
            number=asked.shadow.number,
            version=asked.shadow.version,
            candidate=candidate,
            live=asked.live,
        )
        self._recorder.shadowed(event)

    async def _answer(self, asked: _Asked) -> Traits:
        """What the candidate's answer was like. Raises as `_ask`, also where live gets no answer either."""
        shadow, began = asked.shadow, time.perf_counter()
        if not self._fleet.has(shadow.version):
            return Traits(failed=True)  # since it failed: see `_takes`
        try:
            transcript = await self._ask(asked, shadow.version)
        except PolicyMissing:
            raise
        except Refused:
            await self._ask(asked, shadow.live)  # the same once more, of live: else the engine is at fault
            self._failed = shadow.number
            return Traits(failed=True)
        [choice] = transcript.choices()
        return traits(choice.text, shadow, choice.answer_length, time.perf_counter() - began)

    async def _ask(self, asked: _Asked, version: str) -> Transcript:
        """A whole answer of a version. Raises `UpstreamError`, and `ApiError` where no engine has a place."""
        want = Want(version, asked.key_id, asked.conversation)
        body = orjson.dumps({**asked.body, "model": version})
        with self._leases.using(version):
            async with self._fleet.slot(want) as engine, engine.unanswered():
                answer = await self._upstream.complete(engine.url, body)
        transcript = Transcript()
        transcript.add(answer)
        return transcript

    async def close(self) -> None:
        """Give up what is not answered yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
