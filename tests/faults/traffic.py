"""Clients that chat, vote and keep a ledger, while the servers die under them."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from feedback.core.events import COMPLETIONS
from feedback.core.ids import Signer
from feedback.core.log import Entry, EventLog, LogError
from tests.faults.ledger import Ledger
from tests.feedback.examples import completion

SECRET = b"0123456789abcdef0123456789abcdef"
_BUNDLE = 200  # completions appended at once
_TIMEOUT = aiohttp.ClientTimeout(total=20)


@dataclass(frozen=True)
class Mix:
    """What the clients do. Shares are of all requests."""

    clients: int = 8
    chats: float = 0.03  # ask a question first and vote on its answer
    forged: float = 0.02  # vote on an answer that nobody gave: 404
    broken: float = 0.02  # a vote that makes no sense: 400


class Traffic:
    """Votes on completions that other processes of the service have logged, through `url`.

    `engine_log` is where those completions go: the log of the process under test, seen from this process.
    """

    def __init__(
        self, url: str, engine_log: EventLog | None, ledger: Ledger, mix: Mix | None = None, seed: int = 0
    ) -> None:
        self.url = url
        self.ledger = ledger
        self.sent = 0
        self.pause = threading.Event()  # set while nobody should send
        self._log = engine_log
        self._mix = mix or Mix()
        self._random = random.Random(seed)
        self._signer = Signer(SECRET)
        self._users = itertools.cycle(f"user-{i}" for i in range(997))
        self._waiting: list[str] = []
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Clients at work while the block lasts."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join(60)
        assert not thread.is_alive(), "the clients did not come to an end"
        if self._failure is not None:
            raise self._failure

    def wait_for(self, sent: int, seconds: float = 600.0) -> None:
        """Until so many votes were sent in all."""
        deadline = time.monotonic() + seconds
        while self.sent < sent:
            assert self._failure is None, self._failure
            assert time.monotonic() < deadline, f"{self.sent} of {sent} votes sent after {seconds} s"
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error

    async def _main(self) -> None:
        connector = aiohttp.TCPConnector(limit=self._mix.clients)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            await asyncio.gather(*(self._client(session) for _ in range(self._mix.clients)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stop.is_set():
            if self.pause.is_set():
                await asyncio.sleep(0.005)
                continue
            dice = self._random.random()
            if dice < self._mix.chats:
                completion_id = await self._chat(session)
            else:
                completion_id = await self._logged()
            if completion_id is not None:
                dice = self._random.random()
                forged, broken = dice < self._mix.forged, dice > 1 - self._mix.broken
                await self._vote(session, completion_id + "0" * forged, broken)

    async def _logged(self) -> str | None:
        """The id of a completion that is in the log, or will be."""
        if not self._waiting:
            self._waiting = [self._signer.new_completion_id() for _ in range(_BUNDLE)]
            if self._log is not None:
                events = [completion(completion_id) for completion_id in self._waiting]
                entries = [Entry(COMPLETIONS, e.user, e.model_dump_json().encode()) for e in events]
                names = set(self._waiting)
                try:
                    await asyncio.wrap_future(self._log.append(entries))
                    self.ledger.completions |= names
                except LogError:
                    await asyncio.sleep(0.05)
        return self._waiting.pop() if self._waiting else None

    async def _chat(self, session: aiohttp.ClientSession) -> str | None:
        body = {"model": "hearken", "user": next(self._users), "messages": [{"role": "user", "content": "?"}]}
        try:
            async with session.post(self.url + "/v1/chat/completions", json=body) as answer:
                text = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(0.02)
            return None
        if answer.status != 200:
            return None
        self.ledger.completions.add(text["id"])
        return str(text["id"])

    async def _vote(self, session: aiohttp.ClientSession, completion_id: str, broken: bool) -> None:
        value = self._random.choice((0.0, 1.0))
        word = "sideways" if broken else "up" if value else "down"
        vote = {"kind": "thumbs", "completion_id": completion_id, "value": word, "user": next(self._users)}
        status: int | None = None
        try:
            async with session.post(self.url + "/v1/feedback", json=vote) as answer:
                await answer.read()
                status = answer.status
        except aiohttp.ClientConnectorError:
            self._waiting.append(completion_id)  # nobody listens: nothing was sent
            await asyncio.sleep(0.02)
            return
        except (aiohttp.ClientError, TimeoutError):
            pass
        self.sent += 1
        self.ledger.note(completion_id, value, status)
