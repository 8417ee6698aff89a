"""How many tokens an engine is to send together.

An event costs engine and gateway about the same whether it carries one token or sixteen: with 32 chats on
one core, sending each token by itself takes a fifth of the throughput. So a busy engine sends several, but
never so many that a reader sees a chat jump.
"""

MOVES_PER_SECOND = 8.0
"""Of a chat on a busy engine, at least."""
_MOST = ((2, 1), (4, 4))
"""(chats at work at most, tokens per event at most); above the last, sixteen. An answer keeps what it began
with, also when many others come right after it."""
_KEPT = 0.8  # of what is known, when another answer has ended
_ENOUGH_TOKENS = 4  # of an answer that tells anything


class Pace:
    """How fast the answers of one engine grow of late, learnt from those that ended."""

    __slots__ = ("_tokens_per_second",)

    def __init__(self) -> None:
        self._tokens_per_second: float | None = None

    def note(self, tokens: int, seconds: float) -> None:
        """An answer had so many tokens in the seconds after its first event."""
        if tokens < _ENOUGH_TOKENS or seconds <= 0:
            return
        rate, known = tokens / seconds, self._tokens_per_second
        self._tokens_per_second = rate if known is None else _KEPT * known + (1 - _KEPT) * rate

    def tokens_per_event(self, in_flight: int) -> int:
        """For an answer that begins now; one while nothing is known. The first token comes at once anyway."""
        most = next((tokens for chats, tokens in _MOST if in_flight <= chats), 16)
        return max(1, min(most, int((self._tokens_per_second or 0.0) / MOVES_PER_SECOND)))
