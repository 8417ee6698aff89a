"""Time as an axis: where its ticks are, and how wide the bins are that events are counted in."""

import math
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from hearken.story.charts import Axis

MINUTE, HOUR, DAY = 60, 3600, 86400

_TICKS = (
    *(1, 2, 5, 10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE),
    *(HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR),
    *(DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY),
)
"""Distances of ticks in seconds."""

_BINS = ((2 * HOUR, MINUTE, "minute"), (4 * DAY, HOUR, "hour"), (300 * DAY, DAY, "day"))
"""Longest span in seconds, width of a bin in it, and what that is called."""


def offset_seconds(at: float) -> int:
    """How far local time is ahead of UTC at a Unix time."""
    return time.localtime(at).tm_gmtoff


def axis(since: float, until: float, offset: int = 0, most: int = 6) -> Axis:
    """The axis from one Unix time to another, with at most about `most` ticks at round local times."""
    until = max(until, since + 1.0)
    step = next((each for each in _TICKS if (until - since) / each <= most), _TICKS[-1])
    first = math.ceil((since + offset) / step)
    last = math.floor((until + offset) / step)
    places = [number * step - offset for number in range(first, last + 1)]
    return Axis(since, until, [(at, _text(at + offset, step)) for at in places])


def _text(local: float, step: int) -> str:
    """A local time, given as seconds since 1970 in local time."""
    at = datetime.fromtimestamp(local, UTC)
    if step < MINUTE:
        return f"{at:%H:%M:%S}"
    if step < DAY and local % DAY:
        return f"{at:%H:%M}"
    return f"{at.day} {at:%b}" if step < 365 * DAY else f"{at:%b %Y}"


def bin_width(span_seconds: float) -> tuple[int, str]:
    """The seconds of a bin that suits a span, and its name."""
    for longest, width, name in _BINS:
        if span_seconds <= longest:
            return width, name
    return 7 * DAY, "week"


def binned(
    times: Iterable[float], since: float, until: float, width: int, offset: int = 0
) -> list[list[float]]:
    """[start, count] of each bin from `since` to `until`, empty ones included. Bins begin at round local
    times."""
    counts = Counter(math.floor((at + offset) / width) for at in times if since <= at <= until)
    first, last = math.floor((since + offset) / width), math.floor((until + offset) / width)
    return [[number * width - offset, counts[number]] for number in range(first, last + 1)]
