"""The body of an import: what it says it is, and its way into a file without a name.

None of the content types is one that a web page may send to another origin without asking first.
"""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from starlette.datastructures import Headers

from serve.http.bodies import JSON_LINES, is_json, media_type, unsupported
from serve.http.errors import BodyTooLarge, Unavailable, UnsupportedMediaType
from serve.http.unpacking import Packing, unpacker

log = logging.getLogger(__name__)

WRITE_BYTES = 256 * 1024
"""What is gathered of a body before a thread unpacks and writes it."""

_TABLES = {
    "text/csv": ".csv",
    "application/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/x-parquet": ".parquet",
}
_PACKED_LINES: dict[str, Packing] = {
    "application/gzip": "gzip",
    "application/x-gzip": "gzip",
    "application/zstd": "zstd",
    "application/x-zstd": "zstd",
}
_ENCODINGS: dict[str, Packing | None] = {
    "": None,
    "identity": None,
    "gzip": "gzip",
    "x-gzip": "gzip",
    "zstd": "zstd",
}


class Kind(NamedTuple):
    """What a body is: the suffix that a file of its kind has, and how it is packed."""

    suffix: str
    packing: Packing | None


def kind_of(headers: Headers) -> Kind:
    """What a body's headers say that it is. Raises UnsupportedMediaType for what is not understood."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedMediaType(
            f"The content encoding {encoding:.80} is not understood; send gzip or zstd, or unpacked.",
            code="unsupported_content_encoding",
        )
    packing, kind = _ENCODINGS[encoding], media_type(headers)
    if is_json(kind):
        return Kind(".json", packing)
    if kind in JSON_LINES:
        return Kind(".jsonl", packing)
    if kind in _TABLES:
        return Kind(_TABLES[kind], packing)
    if kind in _PACKED_LINES and packing is None:
        return Kind(".jsonl", _PACKED_LINES[kind])
    raise unsupported(
        kind,
        "send application/x-ndjson, application/json, text/csv or application/vnd.apache.parquet, packed "
        "or not (Content-Encoding: gzip or zstd), or packed JSON lines as application/gzip or "
        "application/zstd",
    )


@contextmanager
def nameless_file(folder: Path, suffix: str) -> Iterator[tuple[IO[bytes], Path]]:
    """An empty file, and a path by which other processes reach it while the block lasts.

    What people said is in it in the clear, so it has no name of its own: it is gone with this process,
    however that ends. Only Linux has such paths.
    """
    with (
        tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as names,
        tempfile.TemporaryFile(dir=folder) as file,
    ):
        path = Path(names) / f"body{suffix}"
        path.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        yield file, path


@dataclass(slots=True)
class Intake:
    """Writes a body, unpacked, into a file: at most `limit` bytes."""

    file: IO[bytes]
    packing: Packing | None
    limit: int

    async def take(self, parts: AsyncIterator[bytes], declared: str) -> str:
        """Take all of a body, and give its unpacked contents' SHA-256 in hex.

        declared: its Content-Length. Raises BodyTooLarge as soon as that is known, BadRequest for a broken
        archive, Unavailable when there is no room, and what `parts` raises.
        """
        if declared.isdecimal() and int(declared) > self.limit:
            raise self._too_large()
        unpack = unpacker(self.packing)
        digest, size = hashlib.sha256(), 0

        def write(packed: bytes) -> None:
            nonlocal size
            for piece in unpack.feed(packed):
                size += len(piece)
                if size > self.limit:
                    raise self._too_large()
                digest.update(piece)
                self.file.write(piece)

        try:
            async for gathered in _gathered(parts):
                await asyncio.to_thread(write, gathered)
            await asyncio.to_thread(self.file.flush)
        except OSError as error:
            log.error("an import's body cannot be kept: %s", error)
            raise Unavailable("There is no room for the body at the moment.", code="no_room") from error
        unpack.end()
        return digest.hexdigest()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body holds more than {self.limit} bytes, unpacked; send it in parts, or raise the "
            "gateway's max_import_bytes.",
            code="request_too_large",
        )


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a thread's while."""
    waiting = bytearray()
    async for part in parts:
        waiting += part
        if len(waiting) >= WRITE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
