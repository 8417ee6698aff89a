"""For which chats two answers are shown, where the client leaves that to the service.

Comparisons cost people's patience. So of many chats the few are chosen whose two answers would teach most
(`feedback.updates.teaching`), and of these few a share is chosen by chance, as what is chosen by its answers
says nothing of how good a policy is. Users of a release's buckets, whose votes decide it, are chosen by
chance alone.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

from deploy.history.table import UserArm
from feedback.core.events import UPDATES
from feedback.core.log import EventLog, LogError
from feedback.updates.teaching import KEY, Teaching, parse

log = logging.getLogger(__name__)

Plan = Literal["alone", "by chance", "by gain"]
"""alone: one answer is made and shown. by chance: two are. by gain: two are made, one or both shown."""

WINDOW = 500
"""Newest chats of which a chat has to be among the few that teach most."""

SLICE = 200  # records read in one go
REST = 3.0  # a reading that has more to do rests so many times as long as it worked: tokens come first
WAIT_SECONDS = 0.25  # longest pause inside one read; also the longest that shutting down can take here
RETRY_SECONDS = 10.0
PAUSE_SECONDS = 1.0  # between readings of a log that was read to its end


class Sparing:
    """Chooses. share: of chats that are to show two answers; random_share: of these, those that chance
    chooses."""

    def __init__(self, share: float, random_share: float, rng: random.Random | None = None) -> None:
        self._share, self._by_chance = share, share * random_share
        self._few = (share - self._by_chance) / (1 - self._by_chance) if self._by_chance < 1 else 0.0
        self._rng = rng or random.Random()
        self._gains: deque[float] = deque(maxlen=WINDOW)
        self.teaching = Teaching()

    def take(self, teaching: Teaching) -> None:
        """Go by what is known now; what pairs taught by what was known before is of another measure."""
        self.teaching = teaching
        self._gains.clear()

    def plan(self, arm: UserArm) -> Plan:
        """What to do with a chat of a user in an arm."""
        by_gain = arm == "live" and self._few > 0
        if self._rng.random() < (self._by_chance if by_gain else self._share):
            return "by chance"
        return "by gain" if by_gain else "alone"

    def shows(self, a: Sequence[int], b: Sequence[int]) -> bool:
        """Whether two answers, made by a plan "by gain", are to be shown. a, b: their token ids.

        They are if they are among the few that teach most, of the newest and themselves: none is before
        there were so many that one is the few.
        """
        gain = self.teaching.gain_nats(a, b)
        place = 1 + sum(known >= gain for known in self._gains)
        few = self._few * (len(self._gains) + 1)
        self._gains.append(gain)
        if gain == 0 or place > few:
            return False
        self.teaching.shown(a, b)
        return True


class HintReader:
    """Lets a `Sparing` go by the newest hint in the log. Reads nothing before it is wanted."""

    def __init__(self, events: EventLog, sparing: Sparing) -> None:
        self._events, self._sparing = events, sparing
        self._wanted = asyncio.Event()
        self._cursor: dict[str, int] = {}

    def want(self) -> None:
        """There is a chat to choose, or not."""
        self._wanted.set()

    async def follow(self) -> None:
        """Read the log, for ever."""
        await self._wanted.wait()
        while True:
            began = time.monotonic()
            try:
                has_more = await self._read() == SLICE
            except LogError as error:
                log.warning("cannot read what votes would teach, going by what is known: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(REST * (time.monotonic() - began) if has_more else PAUSE_SECONDS)

    async def _read(self) -> int:
        """Read a slice; how many records that were."""
        records, self._cursor = await asyncio.to_thread(
            self._events.read, [UPDATES], self._cursor, SLICE, WAIT_SECONDS
        )
        for record in reversed(records):
            if record.key == KEY and (hint := parse(record.value)) is not None:
                self._sparing.take(Teaching(hint))
                break
        return len(records)
