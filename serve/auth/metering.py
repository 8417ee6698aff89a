"""What a caller may use, checked before the work and charged after it; OpenAI's headers tell what is left."""

import asyncio
import math

from serve.auth.caller import Caller, Scope
from serve.auth.windows import Window, Windows
from serve.http.errors import BodyTooLarge, TooManyRequests
from serve.metrics import Metrics
from serve.server.observing import Visit

_BUSY_RETRY_SECONDS = 1.0


class Metering:
    """Limits of keys and of their users. `settle` must run in the background."""

    def __init__(self, windows: Windows, metrics: Metrics) -> None:
        self._windows = windows
        self._metrics = metrics
        self._running: dict[str, int] = {}  # requests at work, by key
        self._owed: dict[str, int] = {}  # tokens and strikes that are not in the windows yet
        self._owing = asyncio.Event()

    async def admit(self, caller: Caller, scope: Scope, visit: Visit) -> None:
        """Let a request of a key in, and count it. Raises TooManyRequests.

        Requests are counted for each scope by itself: a burst of votes leaves chats alone. A request that is
        refused is not counted, so that trying again does not make it worse.
        """
        limits = caller.limits
        if limits.concurrent_requests:
            self._enter(caller.key_id, limits.concurrent_requests, visit)
        token_limit = limits.tokens_per_minute if scope == "chat" else 0
        strike_limit = limits.unprocessable_requests_per_minute if scope == "chat" else 0
        if not (token_limit or strike_limit or limits.requests_per_minute):
            return
        requests, tokens, strikes = (
            f"requests/{caller.key_id}/{scope}",
            _tokens_of(caller),
            _strikes_of(caller),
        )
        made, used, struck = await self._windows.look(requests, tokens, strikes)
        if strike_limit:
            self._check_strikes(struck.plus(self._owed.get(strikes, 0)), strike_limit)
        if token_limit:
            self._check_tokens(used.plus(self._owed.get(tokens, 0)), token_limit, visit)
        if limits.requests_per_minute:
            await self._take_request(requests, made, limits.requests_per_minute, visit)

    async def admit_user(self, caller: Caller, user: str | None) -> None:
        """Let a request of an end user (a pseudonym; None: nobody in particular) in, and count it.

        Raises TooManyRequests.
        """
        limit = caller.limits.user_requests_per_minute
        if not limit or user is None:
            return
        name = f"user/{caller.key_id}/{user}"
        if not await self._windows.take(name, limit):
            (window,) = await self._windows.look(name)
            raise self._refusal(
                "user", "requests", f"{limit} requests a minute of this user", window.wait(limit)
            )

    async def admit_votes(self, whose: str, limit: int, votes: int) -> None:
        """Let so many votes in together, and count them; `limit` is what may come in a minute.

        A batch is let in whole or not at all. Raises TooManyRequests, BodyTooLarge for a batch that never
        could be.
        """
        if votes > limit:
            raise BodyTooLarge(
                f"The batch has {votes} votes, and at most {limit} are taken in a minute: send smaller ones.",
                code="batch_too_large",
            )
        name = f"votes/{whose}"
        if not await self._windows.take(name, limit, votes):
            (window,) = await self._windows.look(name)
            raise self._refusal(
                "votes", "requests", f"{limit} votes a minute", window.wait(limit - votes + 1)
            )

    def charge(self, caller: Caller, tokens: int) -> None:
        """Put the tokens of an answer and its prompt on the key's account. Never waits."""
        if caller.limits.tokens_per_minute and tokens:
            self._owe(_tokens_of(caller), tokens)

    def strike(self, caller: Caller) -> None:
        """Count a request to its key that an engine could not process. Never waits."""
        if caller.limits.unprocessable_requests_per_minute:
            self._owe(_strikes_of(caller), 1)

    def _owe(self, name: str, amount: int) -> None:
        self._owed[name] = self._owed.get(name, 0) + amount
        self._owing.set()

    async def settle(self) -> None:
        """Carry what is owed into the windows, for ever."""
        while True:
            await self._owing.wait()
            self._owing.clear()
            for name, tokens in list(self._owed.items()):
                await self._windows.add(name, tokens)
                self._owed[name] -= tokens
                if not self._owed[name]:
                    del self._owed[name]

    def _enter(self, key_id: str, limit: int, visit: Visit) -> None:
        running = self._running.get(key_id, 0)
        if running >= limit:
            raise self._refusal(
                "concurrency",
                "requests",
                f"{limit} requests of this key at the same time",
                _BUSY_RETRY_SECONDS,
            )
        self._running[key_id] = running + 1
        visit.at_end.append(lambda: self._leave(key_id))

    def _leave(self, key_id: str) -> None:
        self._running[key_id] -= 1
        if not self._running[key_id]:
            del self._running[key_id]

    def _check_tokens(self, window: Window, limit: int, visit: Visit) -> None:
        _tell(visit, "tokens", limit, window)
        if window.used >= limit:
            raise self._refusal(
                "tokens", "tokens", f"{limit} tokens a minute of this key", window.wait(limit)
            )

    def _check_strikes(self, window: Window, limit: int) -> None:
        if window.used >= limit:
            raise self._refusal(
                "unprocessable",
                "requests",
                f"{limit} requests a minute of this key that the model server cannot process",
                window.wait(limit),
            )

    async def _take_request(self, name: str, made: Window, limit: int, visit: Visit) -> None:
        taken = await self._windows.take(name, limit)
        if not taken:
            (made,) = await self._windows.look(name)  # others came in between
        _tell(visit, "requests", limit, made.plus(1 if taken else 0))
        if not taken:
            raise self._refusal(
                "requests", "requests", f"{limit} requests a minute of this key", made.wait(limit)
            )

    def _refusal(self, limit: str, kind: str, what: str, wait_seconds: float) -> TooManyRequests:
        self._metrics.limited.labels(limit).inc()
        return TooManyRequests(
            f"The limit of {what} is reached. Try again in {_duration(wait_seconds)}.", kind, wait_seconds
        )


def _tokens_of(caller: Caller) -> str:
    return f"tokens/{caller.key_id}"


def _strikes_of(caller: Caller) -> str:
    return f"strikes/{caller.key_id}"


def _tell(visit: Visit, kind: str, limit: int, window: Window) -> None:
    visit.headers[f"x-ratelimit-limit-{kind}"] = str(limit)
    visit.headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining(limit))
    visit.headers[f"x-ratelimit-reset-{kind}"] = _duration(window.empty_in())


def _duration(seconds: float) -> str:
    """As OpenAI writes it: "20ms", "6.5s", "1m12s"."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
