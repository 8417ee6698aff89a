"""Archives come out whole, in pieces that are bounded however much they hold."""

import gzip
import random

import pytest
import zstandard

from serve.http.errors import BadRequest
from serve.http.unpacking import PIECE_BYTES, Packing, unpacker

TEXT = random.Random(5).randbytes(70_000) * 3
MOST_OF_ZSTD = 64 * 128 * 1024  # blocks of four bytes in one read, each of 128 kB


def packed(packing: Packing, text: bytes) -> bytes:
    return gzip.compress(text) if packing == "gzip" else zstandard.compress(text)


def unpacked(packing: Packing | None, body: bytes, step: int = 1 << 30) -> list[bytes]:
    unpack = unpacker(packing)
    found = [piece for i in range(0, len(body), step) for piece in unpack.feed(body[i : i + step])]
    unpack.end()
    return found


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
@pytest.mark.parametrize("step", [1, 1000, 1 << 30])
def test_archives_in_a_row_are_one_text(packing: Packing, step: int) -> None:
    body = packed(packing, b"one\n") + packed(packing, TEXT) + packed(packing, b"") + packed(packing, b"end")
    body += bytes(9) if packing == "gzip" else b""  # as tapes have it
    assert b"".join(unpacked(packing, body, step)) == b"one\n" + TEXT + b"end"


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_bomb_comes_out_in_small_pieces(packing: Packing) -> None:
    body = packed(packing, bytes(100_000_000))
    most = max(map(len, unpacked(packing, body)))
    assert most <= (PIECE_BYTES if packing == "gzip" else MOST_OF_ZSTD)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [0, 5, -1])
def test_what_was_cut_is_no_archive(packing: Packing, cut: int) -> None:
    with pytest.raises(BadRequest, match="no whole"):
        unpacked(packing, packed(packing, TEXT)[:cut])


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_what_was_changed_is_no_archive(packing: Packing) -> None:
    body = bytearray(packed(packing, TEXT))
    body[-3] ^= 1
    if packing == "zstd":
        body[2] ^= 1
    with pytest.raises(BadRequest, match="no whole"):
        unpacked(packing, bytes(body))


def test_a_plain_body_is_itself() -> None:
    assert unpacked(None, TEXT) == [TEXT]
