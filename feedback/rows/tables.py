"""Rows in files: JSON, JSONL, CSV and Parquet, read one by one and written to the end or not at all."""

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

Row = dict[str, Any]

_PARQUET_ROWS = 1000  # of one batch in memory
_ZSTD_BYTES = 16384  # of one read: they may unpack to thousands of times as many


class UnreadableFile(Exception):
    """The file as a whole cannot be read; the message says what it should be."""


class Numbered(NamedTuple):
    """A row and its number in the file, from 1. `row` is None where `problem` says what is wrong with it."""

    number: int
    row: Row | None
    problem: str = ""


def read_rows(path: Path) -> Iterator[Numbered]:
    """The rows of a file whose suffix is .json, .jsonl, .ndjson, .csv or .parquet; all but the last also as
    .gz or .zst.

    A line that is not a row is given with its problem and does not end the reading. Raises UnreadableFile.
    """
    packed = path.suffix.lower() in _PACKED
    reader = _READERS.get(Path(path.stem).suffix.lower() if packed else path.suffix.lower())
    if reader is None:
        packings = " or ".join(_PACKED)
        raise UnreadableFile(
            f"{path} ends in none of {', '.join(sorted(_READERS))} (with {packings} or without)"
        )
    if not path.is_file():
        raise UnreadableFile(f"there is no file {path}")
    if packed and reader is _read_parquet:
        raise UnreadableFile(f"{path} is Parquet in an archive, which cannot be read in parts: unpack it")
    try:
        yield from reader(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(f"{path} is not UTF-8 text of its kind: {error}") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UnreadableFile(f"{path} is no whole gzip file: {error}") from error
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error}") from error


def count_rows(path: Path) -> int:
    """How many rows there are, for a progress bar: reading them is little beside what is done with them."""
    return sum(1 for _ in read_rows(path))


def _open(path: Path, newline: str | None = None) -> IO[str]:
    """A file as text, unpacked while it is read."""
    suffix = path.suffix.lower()
    if suffix not in _PACKED:
        return path.open(encoding="utf-8-sig", newline=newline)
    if suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    unpacked = io.BufferedReader(_Zstandard(path))
    return io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline=newline)


class _Zstandard(io.RawIOBase):
    """A .zst file as bytes. Its library takes the end of a file that was cut for the end of the contents."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UnreadableFile(f"{path} needs zstandard: install hearken[zstd], or unpack it") from error
        self._library, self._path = zstandard, path
        self._file = path.open("rb")
        self._frame: Any = None
        self._packed = b""
        self._ready = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (count := self._ready.readinto(buffer)):
            packed = self._packed or self._file.read(_ZSTD_BYTES)
            if not packed and self._frame is None:
                return 0
            self._ready = io.BytesIO(self._unpacked(packed))
        return count

    def _unpacked(self, packed: bytes) -> bytes:
        """The contents of the next bytes of the file. Raises UnreadableFile."""
        if not packed:
            raise UnreadableFile(f"{self._path} is no whole zstd file: it was cut")
        self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
        try:
            found: bytes = self._frame.decompress(packed)
        except self._library.ZstdError as error:
            raise UnreadableFile(f"{self._path} is no whole zstd file: {error}") from error
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return found

    def close(self) -> None:
        self._file.close()
        super().close()


def _read_json(path: Path) -> Iterator[Numbered]:
    with _open(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        lines = text.lstrip().split("\n", 2)
        if len(lines) > 1 and _is_object(lines[0]):
            yield from _read_jsonl(path)  # many exports of lines are named .json
            return
        raise UnreadableFile(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]  # an API's page of results
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise UnreadableFile(f"{path} holds {type(content).__name__}; it should be a list of objects")
    for number, row in enumerate(content, 1):
        yield _numbered(number, row)


def _read_jsonl(path: Path) -> Iterator[Numbered]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _numbered(number, json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                yield Numbered(number, None, f"not JSON: {error}")


def _read_csv(path: Path) -> Iterator[Numbered]:
    csv.field_size_limit(16 * 1024 * 1024)
    with _open(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            if None in row or None in row.values():
                yield Numbered(number, None, "it has not as many fields as the header")
            else:
                yield Numbered(number, {name: _cell(value) for name, value in row.items() if value != ""})


def _read_parquet(path: Path) -> Iterator[Numbered]:
    parquet = _parquet()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UnreadableFile(f"{path} is not a Parquet file: {error}") from error
    number = 0
    batches = file.iter_batches(batch_size=_PARQUET_ROWS)
    while (rows := _next(batches, path)) is not None:
        for row in rows:
            number += 1
            yield Numbered(number, {name: _cell(value) for name, value in row.items() if value is not None})


def _next(batches: Iterator[Any], path: Path) -> list[Row] | None:
    try:
        batch = next(batches, None)
        return None if batch is None else batch.to_pylist()
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is damaged: {error}") from error


_PACKED = (".gz", ".zst")

_READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows by the file's suffix (.jsonl, .json, .csv, .parquet); how many there were.

    The file appears when all of it is written. Raises UnreadableFile for another suffix.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise UnreadableFile(f"{path} ends in none of {', '.join(sorted(_WRITERS))}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        count = writer(temporary, rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_json(path: Path, rows: Iterable[Row]) -> int:
    everything = list(rows)
    path.write_text(json.dumps(everything, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(everything)


def _write_csv(path: Path, rows: Iterable[Row]) -> int:
    everything = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in everything for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(everything)
    return len(everything)


def _write_parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow

    parquet = _parquet()
    everything = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in everything for name in row))
    columns = {name: [row.get(name) for row in everything] for name in names}
    parquet.write_table(pyarrow.table(columns), path)
    return len(everything)


_WRITERS: dict[str, Callable[[Path, Iterable[Row]], int]] = {
    ".jsonl": _write_jsonl,
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnreadableFile("Parquet files need pyarrow: install hearken[parquet]") from error
    return pyarrow.parquet


def _numbered(number: int, row: object) -> Numbered:
    if isinstance(row, dict):
        return Numbered(number, row)
    return Numbered(number, None, f"it is {type(row).__name__}, not an object")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _flat(row: Row) -> Row:
    """Lists and objects as JSON text: a table's cell holds one value."""
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
        for name, value in row.items()
    }


def _cell(value: object) -> object:
    """What `_flat` wrote, read back. Only messages and settings are: an answer that is JSON stays a text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            content = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
        parts = content if isinstance(content, list) else [content]
        if parts and all(isinstance(part, dict) and part.keys() & {"role", "from"} for part in parts):
            return content
    return value
