"""Puts what happened into the log, and tells whether it is there.

Completions and feedback are keyed by the pseudonym of the user who asked, or voted: whoever votes on
their own chat, which is nearly everyone, finds vote and completion in one partition, for thumbs and for
comparisons alike, and the revisions of one vote always keep their order.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future

from feedback.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.log import Entry, EventLog, LogError
from serve.generation import Generation
from serve.metrics import Metrics

log = logging.getLogger(__name__)


class Recorder:
    """Appends events and counts them."""

    def __init__(self, events: EventLog, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics

    def hand_over(self, generation: Generation) -> "Future[None]":
        """Give a completion to the log without waiting (a cancelled request cannot wait). Never raises."""
        completion = generation.completion()
        if generation.unfinished is None and not generation.transcript.is_exact:
            self._metrics.inexact.inc()
            log.warning("completion %s: tokens and logprobs do not pair", completion.completion_id)
        tokens = sum(len(choice.token_ids) for choice in completion.choices)
        self._metrics.completion_tokens.labels(completion.arm).inc(tokens)
        entry = Entry(COMPLETIONS, completion.conversation, completion.model_dump_json().encode())
        appended = self._append([entry])
        appended.add_done_callback(lambda done: self._count(done, completion))
        return appended

    async def completion(self, generation: Generation) -> None:
        """Log a completion, and return when it is durable or when it is known that it cannot be.

        A chat is worth more to its user than to the learner: a log that is away is counted, not raised.
        """
        # asyncio.wait, unlike await, leaves the append alone when the request is cancelled.
        await asyncio.wait([asyncio.wrap_future(self.hand_over(generation))])

    async def feedback(self, vote: Feedback) -> None:
        """Log a vote durably. Raises LogUnavailable: a vote that is not on disk is not acknowledged."""
        entry = Entry(FEEDBACK, vote.rater, vote.model_dump_json().encode())
        await asyncio.shield(asyncio.wrap_future(self._append([entry])))
        self._metrics.feedback.labels(vote.kind, vote.label).inc()

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
