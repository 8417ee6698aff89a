"""Rows of a damaged SQLite file, read page by page without SQLite.

Format: https://www.sqlite.org/fileformat2.html, sections 1.6 (b-tree pages, overflow), 2.1 (records) and 4.1
(the write-ahead log). Nothing here trusts a page: whoever uses the rows checks their checksums.
"""

import mmap
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

Value = None | int | float | bytes
"""Text comes as bytes: whether it is UTF-8 is not known yet."""

_LEAF = 0x0D
_MAX_PAYLOAD = 64 * 1024 * 1024
_WAL_HEADER, _FRAME_HEADER = 32, 24
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes


class Pages:
    """The pages of a database file and of its write-ahead logs; each page may have several versions."""

    def __init__(self, database: Path, wals: list[Path]) -> None:
        self._database = _mapped(database)
        self._wals = [_mapped(path) for path in wals]
        self.size = self._page_size()
        self._newest = {number: page for wal in self._wals for number, page in self._frames(wal)}

    def _page_size(self) -> int:
        for raw, at, width in ((self._database, 16, 2), *((wal, 8, 4) for wal in self._wals)):
            size = int.from_bytes(raw[at : at + width])
            size = 65536 if size == 1 else size
            if 512 <= size <= 65536 and size & (size - 1) == 0:
                return size
        return 4096

    def _frames(self, wal: mmap.mmap | bytes) -> Iterator[tuple[int, bytes]]:
        step = _FRAME_HEADER + self.size
        for start in range(_WAL_HEADER, len(wal), step):
            yield int.from_bytes(wal[start : start + 4]), bytes(wal[start + _FRAME_HEADER : start + step])

    def _old(self, number: int) -> bytes:
        return bytes(self._database[(number - 1) * self.size : number * self.size]) if number > 0 else b""

    def _new(self, number: int) -> bytes:
        return self._newest.get(number) or self._old(number)

    def _images(self) -> Iterator[tuple[int, bytes]]:
        for number in range(1, len(self._database) // self.size + 2):
            yield number, self._old(number)
        for wal in self._wals:
            yield from self._frames(wal)

    def rows(self, columns: int) -> Iterator[tuple[int, list[Value]]]:
        """(row id, values) of whatever looks like a table's row of so many columns; some come repeatedly."""
        for number, page in self._images():
            for rowid, payload in self._cells(number, page):
                views = (self._old, self._new) if payload[2] else (self._new,)
                for view in views:
                    values = _record(self._whole(payload, view), columns)
                    if values is not None:
                        yield rowid, values

    def _cells(self, number: int, page: bytes) -> Iterator[tuple[int, tuple[int, bytes, int]]]:
        """(row id, (payload size, the part of it on this page, first overflow page)) of a leaf's cells."""
        start = 100 if number == 1 else 0
        if len(page) < start + 8 or page[start] != _LEAF:
            return
        count = int.from_bytes(page[start + 3 : start + 5])
        for i in range(min(count, self.size // 4)):
            slot = start + 8 + 2 * i
            at = int.from_bytes(page[slot : slot + 2])
            size, at = _varint(page, at)
            rowid, at = _varint(page, at)
            local = self._local(size)
            if 0 < size <= _MAX_PAYLOAD and at + local <= len(page):
                overflow = int.from_bytes(page[at + local : at + local + 4]) if local < size else 0
                yield rowid, (size, page[at : at + local], overflow)

    def _local(self, size: int) -> int:
        """How many bytes of a payload lie on the leaf itself (section 1.6, "U" is the page size)."""
        most = self.size - 35
        if size <= most:
            return size
        least = (self.size - 12) * 32 // 255 - 23
        fitting = least + (size - least) % (self.size - 4)
        return fitting if fitting <= most else least

    def _whole(self, payload: tuple[int, bytes, int], view: Callable[[int], bytes]) -> bytes:
        size, local, overflow = payload
        parts, left = [local], size - len(local)
        while left > 0:
            page = view(overflow)
            if len(page) < 5:
                break
            overflow = int.from_bytes(page[:4])
            parts.append(page[4 : 4 + left])
            left -= len(parts[-1])
        return b"".join(parts)


def _mapped(path: Path) -> mmap.mmap | bytes:
    if not path.exists() or path.stat().st_size == 0:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A big-endian base-128 number of up to 9 bytes, and where it ends."""
    value = 0
    for i in range(8):
        byte = raw[at + i] if at + i < len(raw) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    byte = raw[at + 8] if at + 8 < len(raw) else 0
    return value << 8 | byte, at + 9


def _record(payload: bytes, columns: int) -> list[Value] | None:
    """The values of a record of so many columns, or None when the payload is none."""
    head, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < head and len(kinds) <= columns:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if at != head or len(kinds) != columns:
        return None
    values: list[Value] = []
    for kind in kinds:
        width = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        body = payload[at : at + width]
        at += width
        if len(body) != width:
            return None
        if kind == 0:
            values.append(None)
        elif kind in _INTEGERS:
            values.append(int.from_bytes(body, signed=True))
        elif kind == 7:
            values.append(float(struct.unpack(">d", body)[0]))
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind >= 12:
            values.append(body)
        else:
            return None
    return values
