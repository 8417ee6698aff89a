"""Request under what its user asked for in every answer, and held to it where a grammar can."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from serve.generation.requests import ChatRequest
from serve.wishes.holding import When, grammar_for

# Of a tenant's grammars that engines do not know yet. A character takes an engine about 25 us of a core.
BURST_CHARS = 72_000
CHARS_PER_SECOND = 2_000
_KNOWN = 1_024


class Holding:
    """Whether and to what answers are held, and how much of engines' time one tenant's new lists may take."""

    def __init__(self, when: When, clock: Callable[[], float] = time.monotonic) -> None:
        self._when: When = when
        self._clock = clock
        self._known: OrderedDict[str, None] = OrderedDict()
        self._left: dict[str, tuple[float, float]] = {}  # a tenant's characters, and when they were counted

    def under(self, asked: ChatRequest, entries: Sequence[str], tenant: str) -> ChatRequest:
        """The request under a list of preferences, held to them unless its tenant just had many new lists.

        Tokens under a grammar are no sample of the policy alone; their sampling says so, as with a
        client's own.
        """
        grammar = grammar_for(entries, asked.body, asked.sampling.max_tokens, self._when)
        if grammar is not None and not self._affords(grammar, tenant):
            grammar = None
        asked = replace(asked, preferences=tuple(entries), grammar=grammar)
        if grammar is None:
            return asked
        return replace(asked, sampling=asked.sampling.model_copy(update={"penalties": True, "held": True}))

    def _affords(self, grammar: str, tenant: str) -> bool:
        """Whether engines know a grammar, or its tenant may have them compile it, which is then counted."""
        if grammar in self._known:
            self._known.move_to_end(grammar)
            return True
        now = self._clock()
        left, counted_at = self._left.get(tenant, (BURST_CHARS, now))
        left = min(BURST_CHARS, left + CHARS_PER_SECOND * (now - counted_at)) - len(grammar)
        if left < 0:
            return False
        self._left[tenant] = left, now
        self._known[grammar] = None
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return True
