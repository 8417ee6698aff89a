"""Puts what happened into the log, and tells whether it is there.

Completions and feedback are keyed by the pseudonym of the user who asked, or voted: whoever votes on
their own chat, which is nearly everyone, finds vote and completion in one partition, for thumbs and for
comparisons alike, and the revisions of one vote always keep their order.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import orjson

from deploy.history.releases import entry as release_entry
from deploy.history.shadowed import Shadowed
from feedback.core.events import COMPLETIONS, FEEDBACK, Completion
from feedback.core.log import Entry, EventLog, LogError
from feedback.privacy.sealing import Keys
from serve.auth.caller import Caller
from serve.engines.upstream import CHAT_PATH
from serve.generation.generation import Generation, Json
from serve.metrics import Metrics
from serve.storage.privacy import Privacy
from serve.tracing import Tracing

log = logging.getLogger(__name__)

SLICE = 100
"""Votes sealed in one go (about 1 ms): between slices the event loop serves the chats that wait."""

Charge = Callable[[Caller, int], None]


class Recorder:
    """Appends events and counts them; `charge` is told whose tokens they are.

    Everything goes through `privacy` first: what is in the log is what may be kept of it, sealed. `tracing`
    is told of all, if there is one.
    """

    def __init__(
        self,
        events: EventLog,
        privacy: Privacy,
        metrics: Metrics,
        charge: Charge,
        tracing: Tracing | None = None,
    ) -> None:
        self._events = events
        self.stamp = events.stamp  # a revision for a vote, later than all before
        self._privacy = privacy
        self._metrics = metrics
        self._charge = charge
        self._tracing = tracing

    def hand_over(self, generation: Generation) -> "Future[None]":
        """Give a completion to the log without waiting (a cancelled request cannot wait). Never raises."""
        completion = generation.completion()
        if generation.unfinished is None and not generation.transcript.is_exact:
            self._metrics.inexact.inc()
            log.warning("completion %s: tokens and logprobs do not pair", completion.completion_id)
        if self._tracing is not None:
            self._tracing.generation(completion, generation.asked.path == CHAT_PATH)
        tokens = sum(len(choice.token_ids) for choice in completion.choices)
        self._metrics.completion_tokens.labels(completion.arm).inc(tokens)
        self._charge(generation.route.caller, len(completion.prompt_token_ids) + tokens)
        appended = self._append_completion(completion, generation.route.since)
        appended.add_done_callback(lambda done: self._count(done, completion))
        return appended

    def failed(self, generation: Generation, failure: str) -> None:
        """Give the log a request that got no answer, without waiting. Never raises."""
        event = generation.failed(failure)
        self._metrics.failed.labels(event.arm, failure).inc()
        if self._tracing is not None:
            self._tracing.generation(event, generation.asked.path == CHAT_PATH)
        self._append([Entry(COMPLETIONS, event.conversation, event.model_dump_json().encode())])

    def _append_completion(self, completion: Completion, since: int) -> "Future[None]":
        """Seal and append; where the user's key has to be made, when it is durable, in another thread."""
        kept = self._privacy.completion(completion)
        appended: Future[None] = Future()
        appended.set_running_or_notify_cancel()

        def append(keys: "Future[Keys]") -> None:
            try:
                value = self._privacy.sealed(kept, keys.result()).model_dump_json().encode()
            except Exception as error:  # whoever waits is told
                log.error("the texts cannot be sealed: %s", error)
                appended.set_exception(error)
                return
            _pass_on(self._append([Entry(COMPLETIONS, kept.conversation, value)]), appended)

        self._privacy.keys_of(kept, since).add_done_callback(append)
        return appended

    def shadowed(self, event: Shadowed) -> None:
        """Give the log what a candidate's answer was like beside the one that a user got. Never raises."""
        self._append([release_entry(event)])

    async def completion(self, generation: Generation) -> None:
        """Log a completion, and return when it is durable or when it is known that it cannot be.

        A chat is worth more to its user than to the learner: a log that is away is counted, not raised.
        """
        # asyncio.wait, unlike await, leaves the append alone when the request is cancelled.
        done, _ = await asyncio.wait([asyncio.wrap_future(self.hand_over(generation))])
        for logged in done:
            logged.exception()  # it was told in the log

    async def votes(self, votes: Sequence[tuple[Json, int]]) -> list[Entry]:
        """Log votes, each with the instant at which it began; the entries, sealed and durable.

        All or none. Raises VaultUnavailable, and LogUnavailable: what is not on disk is not acknowledged.
        """
        keys = await self._privacy.keys(votes)
        entries: list[Entry] = []
        for start in range(0, len(votes), SLICE):
            if start:
                await asyncio.sleep(0)
            for event, _ in votes[start : start + SLICE]:
                sealed = self._privacy.sealed_vote(event, keys) if keys else event
                entries.append(Entry(FEEDBACK, event["rater"], orjson.dumps(sealed)))
        await asyncio.shield(asyncio.wrap_future(self._append(entries)))
        for (kind, label), count in Counter((event["kind"], event["label"]) for event, _ in votes).items():
            self._metrics.feedback.labels(kind, label).inc(count)
        if self._tracing is not None:
            self._tracing.votes(event for event, _ in votes)
        return entries

    async def retraction(self, entry: Entry) -> None:
        """Log durably that a vote is taken back. Raises LogUnavailable."""
        await self.note(entry)
        self._metrics.feedback.labels("retraction", "retracted").inc()

    async def note(self, entry: Entry) -> None:
        """Log one entry durably. Raises LogUnavailable."""
        await asyncio.shield(asyncio.wrap_future(self._append([entry])))

    def _append(self, entries: Sequence[Entry]) -> "Future[None]":
        started = time.perf_counter()
        try:
            appended = self._events.append(entries)
        except (LogError, ValueError) as error:  # ValueError: larger than a log entry may be
            appended = Future()
            appended.set_exception(error)
        appended.add_done_callback(
            lambda _: self._metrics.append_seconds.observe(time.perf_counter() - started)
        )
        return appended

    def _count(self, done: "Future[None]", completion: Completion) -> None:
        if done.cancelled() or done.exception() is not None:
            self._metrics.unlogged.inc()
            log.error("completion %s was not logged", completion.completion_id)
        else:
            self._metrics.completions.labels(completion.arm).inc()


def _pass_on(first: "Future[None]", second: "Future[None]") -> None:
    """Let one future end as another does."""

    def end(done: "Future[None]") -> None:
        error = done.exception()
        second.set_result(None) if error is None else second.set_exception(error)

    first.add_done_callback(end)
