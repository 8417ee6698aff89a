"""A model in a GGUF file, made into an ordinary folder once: `python -m hearken.models.gguf FILE FOLDER`.

vLLM's server and the learner read one and the same folder then, with the tokenizer and the chat template that
lie in the file. Its weights, often of 4 to 8 bits, become bfloat16: the folder needs 2 bytes a weight.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from feedback.core.files import cache_folder
from hearken.base.errors import UsageError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # of the format, that the package gguf reads
_PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")  # one of several files of one model


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF files do: with their name and a version. Raises OSError."""
    with file.open("rb") as stream:
        return stream.read(4) == MAGIC and int.from_bytes(stream.read(4), "little") in VERSIONS


def check(file: Path) -> None:
    """Raises UsageError when `file` cannot be a whole GGUF model, or what reads one is not installed."""
    try:
        fits = is_gguf(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if not fits:
        raise UsageError(
            f"{file} is not a GGUF file: it does not begin with GGUF and version 2 or 3; "
            "download it again, or pass --model a folder with config.json and *.safetensors"
        )
    if _PART.search(file.name):
        raise UsageError(
            f"{file} is one of several parts; merge them (llama-gguf-split --merge) and pass the merged file"
        )
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"{file} needs the package gguf to be read; pip install gguf")


def converted(file: Path) -> Path:
    """The folder of the model in a GGUF file, in the cache; made now if it is not there.

    Whoever asks while another process makes it waits for that one. The work is done in a process of its own,
    as it needs torch. Raises UsageError.
    """
    file = file.expanduser().resolve()
    check(file)
    folder = folder_of(file)
    if folder.exists():
        return folder
    print(f"making an ordinary folder of {file.name}, once: {folder}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "hearken.models.gguf", str(file), str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise UsageError(
            f"{file} cannot be made into a model folder; it may be cut off, or of a kind that transformers "
            f"does not read: {lines[-1]}"
        )
    return folder


def instead_of(path: Path) -> Path | None:
    """The ordinary folder of a model that comes as a GGUF; None for a folder with other weights.

    Raises UsageError.
    """
    if path.is_file():
        return converted(path)
    files = sorted(path.glob("*.gguf"))
    if not files or any(path.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise UsageError(f"{path} has several GGUF files; pass one of them, such as --model {files[0]}")
    return converted(files[0])


def folder_of(file: Path) -> Path:
    """Where a file's model is kept. Files are told apart by path, size and time of change."""
    known = file.stat()
    key = hashlib.sha256(f"{file}\n{known.st_size}\n{known.st_mtime_ns}".encode()).hexdigest()[:12]
    return cache_folder() / "gguf" / f"{file.stem}-{key}"


def convert(file: Path, folder: Path) -> None:
    """Make `folder` of a GGUF file, in one rename; nothing is done when it exists. Imports torch.

    Raises what transformers does for a file that it does not know, and OSError.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder):
        if folder.exists():
            return
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            _write(file, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Without `dequantize` the weights stay packed, and a packed model cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """The command, which `converted` runs as a child. The last line on stderr says why it failed."""
    parser = argparse.ArgumentParser(prog="python -m hearken.models.gguf", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a GGUF file")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to make")
    arguments = parser.parse_args(argv)
    try:
        check(arguments.file)
        convert(arguments.file.expanduser().resolve(), arguments.folder)
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.code
    except Exception as error:  # transformers' refusals have no common base but this
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
