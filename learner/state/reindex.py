"""Finding again in the log what was joined before there was a file of it (see `feedback.joining.file`)."""

import logging
from collections.abc import Mapping

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog, LogUnavailable
from feedback.joining.join import Joiner

logger = logging.getLogger("hearken.learner")

_READ = 2000  # records of one read
_PATIENCE_SECONDS = 30.0  # a broker may need so long for its first answer


def reindex(joiner: Joiner, log: EventLog, cursor: Mapping[str, int]) -> None:
    """Let a joiner read what the log still has before `cursor`; the labels of it are known already.

    Raises `LogUnavailable` when the log does not give it.
    """
    topics = (COMPLETIONS, FEEDBACK)
    end = {place: at for place, at in cursor.items() if place.rpartition("/")[0] in topics}
    logger.info("reading the log up to %s once, for an index of it", end)
    at: dict[str, int] = {}
    while any(at.get(place, 0) < offset for place, offset in end.items()):
        records, at = log.read(topics, at, _READ, _PATIENCE_SECONDS)
        if not records:
            raise LogUnavailable(f"the log ends before the checkpoint: {at} of {end}")
        before = (r for r in records if r.offset < end.get(f"{r.topic}/{r.partition}", 0))
        joiner.feed(before)
    joiner.lost.clear()
