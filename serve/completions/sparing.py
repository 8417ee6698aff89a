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
from feedback.core.log import EventLog, LogError, Place, Record
from feedback.updates.teaching import KEY, Teaching, parse

log = logging.getLogger(__name__)

Plan = Literal["alone", "by chance", "by gain"]
"""alone: one answer is made and shown. by chance: two are. by gain: two are made, one or both shown."""

WINDOW = 500
"""Newest chats of which a chat has to be among the few that teach most."""

SLICE = 200  # records read in one go
REST = 3.0  # a reading that has more to do rests so many times as long as it worked: tokens come first
END_SECONDS = 2.0  # longest wait for the log to say where it ends
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
    """Lets a `Sparing` go by the newest hint in the log. Reads nothing before it is wanted.

    A log of months has many hints, of which one counts: it is looked for from the end of the log backwards,
    and what comes after that end is read in its order.
    """

    def __init__(self, events: EventLog, sparing: Sparing) -> None:
        self._events, self._sparing = events, sparing
        self._wanted = asyncio.Event()
        self._cursor: dict[str, int] | None = None  # None: where the log ends is not known yet
        self._looks_before: dict[str, int] = {}  # topic/partition -> offset; empty: nothing more to look at

    def want(self) -> None:
        """There is a chat to choose, or not."""
        self._wanted.set()

    async def follow(self) -> None:
        """Read the log, for ever."""
        await self._wanted.wait()
        while True:
            began = time.monotonic()
            try:
                has_more = await self._go_on()
            except LogError as error:
                log.warning("cannot read what votes would teach, going by what is known: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(REST * (time.monotonic() - began) if has_more else PAUSE_SECONDS)

    async def _go_on(self) -> bool:
        """Read a slice; whether there is more that can be read at once."""
        if self._cursor is None:
            end = await asyncio.to_thread(self._events.end, [UPDATES], END_SECONDS)
            self._cursor, self._looks_before = end, end
            return True
        if self._looks_before:
            await self._look_back()
            return True
        records, self._cursor = await asyncio.to_thread(
            self._events.read, [UPDATES], self._cursor, SLICE, WAIT_SECONDS
        )
        self._take(records)
        return len(records) == SLICE

    async def _look_back(self) -> None:
        """Look at the slice before what was looked at. It is the last one where it has a hint, or nothing."""
        before = {name: max(0, offset - SLICE) for name, offset in self._looks_before.items()}
        places = [
            Place(UPDATES, int(name.rpartition("/")[2]), offset)
            for name, first in before.items()
            for offset in range(first, self._looks_before[name])
        ]
        found = await asyncio.to_thread(self._events.fetch, places, WAIT_SECONDS)
        records = [record for record in found if record is not None]
        is_over = self._take(records) or not records or not any(before.values())
        self._looks_before = {} if is_over else before

    def _take(self, records: Sequence[Record]) -> bool:
        """Go by the newest hint of some records; whether there is one."""
        for record in reversed(records):
            if record.key == KEY and (hint := parse(record.value)) is not None:
                self._sparing.take(Teaching(hint))
                return True
        return False
