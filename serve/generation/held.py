"""Request under what its user asked for in every answer, and held to it where a grammar can."""

from collections import OrderedDict
from collections.abc import Sequence

from msgspec.structs import replace

from serve.auth.windows import Windows
from serve.generation.requests import ChatRequest
from serve.wishes.holding import When, grammar_for

# Of a tenant's grammars that engines do not know yet. A character takes an engine about 25 us of a core.
CHARS_PER_MINUTE = 72_000
_KNOWN = 1_024


class Holding:
    """Which answers are held to their user's preferences, and how many new grammars a tenant may bring.

    windows: count what tenants brought.
    """

    def __init__(self, when: When, windows: Windows) -> None:
        self._when: When = when
        self._windows = windows
        self._known: OrderedDict[str, None] = OrderedDict()

    async def under(self, asked: ChatRequest, entries: Sequence[str], tenant: str) -> ChatRequest:
        """The request under a list of preferences, held to them unless its tenant just had many new lists.

        Tokens under a grammar are no sample of the policy alone; their sampling says so, as with a
        client's own.
        """
        grammar = grammar_for(entries, asked.body, asked.sampling.max_tokens, self._when)
        if grammar is not None and not await self._affords(grammar, tenant):
            grammar = None
        asked = replace(asked, preferences=tuple(entries), grammar=grammar)
        if grammar is None:
            return asked
        return replace(asked, sampling=asked.sampling.model_copy(update={"penalties": True, "held": True}))

    async def _affords(self, grammar: str, tenant: str) -> bool:
        """Whether engines know a grammar, or its tenant may have them compile it, which is then counted."""
        if grammar not in self._known:
            if not await self._windows.take(f"grammars/{tenant}", CHARS_PER_MINUTE, len(grammar)):
                return False
            self._known[grammar] = None
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(grammar)
        return True
