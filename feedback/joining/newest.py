"""The newest completions as they came: what a vote is about is likely to be among them."""

from collections import OrderedDict

from feedback.core.log import Record


class Newest:
    """Completions by their numbers, which rise, and by the hashes of their ids; `most_bytes` of records."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._records: OrderedDict[int, Record] = OrderedDict()
        self._numbers: OrderedDict[int, int] = OrderedDict()  # by hash, in the same order

    def add(self, number: int, key: int, record: Record) -> None:
        """Remember a completion. key: the hash of its id."""
        self._records[number] = record
        self._numbers[key] = number
        self._bytes += len(record.value)
        while self._bytes > self._most_bytes:
            self._drop_oldest()

    def number(self, key: int) -> int | None:
        """The number of a completion, None for one that is not here."""
        return self._numbers.get(key)

    def record(self, number: int) -> Record | None:
        """A completion as it came, None for one that is not here."""
        return self._records.get(number)

    def drop_before(self, number: int) -> None:
        """Forget all completions with lower numbers."""
        while self._records and next(iter(self._records)) < number:
            self._drop_oldest()

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
        self._numbers.clear()
        self._bytes = 0

    def _drop_oldest(self) -> None:
        self._bytes -= len(self._records.popitem(last=False)[1].value)
        self._numbers.popitem(last=False)
