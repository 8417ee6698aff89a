"""What a decision rests on, as sums: the records that were read for it, each place of the log by itself."""

import hashlib
from collections.abc import Iterable
from typing import Any

from feedback.core.log import Record
from feedback.core.losses import place


class Digests:
    """The sha256 of all records that were taken in, by their place ("topic/partition").

    A place has one order in every log, however places are read together, so whoever reads the same records
    again gets the same sums. Texts in them are sealed, and stay so when their user is erased: a sum needs no
    key.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}  # hashlib has no public type for them

    def take(self, records: Iterable[Record]) -> None:
        """Take in records, those of one place in their order."""
        for record in records:
            where = place(record.topic, record.partition)
            found = self._sums.get(where)
            if found is None:
                found = self._sums[where] = hashlib.sha256()
            key = record.key.encode()
            found.update(b"%d %d %d\n" % (record.offset, len(key), len(record.value)))
            found.update(key)
            found.update(record.value)

    def told(self) -> dict[str, str]:
        """Place -> sum in hex, of all that was taken in by now."""
        return {where: found.hexdigest() for where, found in sorted(self._sums.items())}
