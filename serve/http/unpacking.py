"""Packed bodies, unpacked piece by piece: how much comes out at once is bounded, whatever came in."""

import zlib
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from serve.http.errors import BadRequest, UnsupportedMediaType

Packing = Literal["gzip", "zstd"]

PIECE_BYTES = 1024 * 1024
_ZSTD_BYTES = 256  # of one read: a block of four bytes may hold 128 kB
_GZIP = 31  # zlib's number for gzip's header and checksum


class Unpacker(Protocol):
    """Bytes in, pieces of bytes out."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What the next bytes of a body hold. Raises BadRequest for what is no such archive."""
        ...

    def end(self) -> None:
        """The body is complete. Raises BadRequest when the archive is not."""
        ...


def unpacker(packing: Packing | None) -> Unpacker:
    """What unpacks a body. Raises UnsupportedMediaType where the library for it is missing."""
    if packing is None:
        return _Plain()
    return _Gzip() if packing == "gzip" else _Zstandard()


class _Plain:
    def feed(self, packed: bytes) -> Iterator[bytes]:
        yield packed

    def end(self) -> None: ...


class _Gzip:
    """Members of a gzip file, one after the other; zeros may follow them."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._has_begun = False
        self._any = False

    def feed(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if not self._has_begun:
                packed = packed.lstrip(b"\0") if self._any else packed
                if not packed:
                    return
                self._member, self._has_begun, self._any = zlib.decompressobj(_GZIP), True, True
            try:
                yield self._member.decompress(packed, PIECE_BYTES)
            except zlib.error as error:
                raise _broken("gzip", str(error)) from error
            packed = self._member.unconsumed_tail
            if self._member.eof:
                packed, self._has_begun = self._member.unused_data, False

    def end(self) -> None:
        if self._has_begun or not self._any:
            raise _broken("gzip", "it was cut")


class _Zstandard:
    """Frames of a zstd file, one after the other."""

    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UnsupportedMediaType(
                "This gateway cannot unpack zstd: it has no zstandard (hearken[zstd]); send gzip.",
                code="unsupported_media_type",
            ) from error
        self._library: Any = zstandard
        self._frame: Any = None
        self._any = False

    def feed(self, packed: bytes) -> Iterator[bytes]:
        for start in range(0, len(packed), _ZSTD_BYTES):
            yield from self._unpacked(packed[start : start + _ZSTD_BYTES])

    def _unpacked(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            self._any = True
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                yield self._frame.decompress(packed)
            except self._library.ZstdError as error:
                raise _broken("zstd", str(error)) from error
            packed = b""
            if self._frame.eof:
                packed, self._frame = self._frame.unused_data, None

    def end(self) -> None:
        if self._frame is not None or not self._any:
            raise _broken("zstd", "it was cut")


def _broken(packing: Packing, why: str) -> BadRequest:
    return BadRequest(f"The body is no whole {packing} archive: {why}.", code="invalid_archive")
