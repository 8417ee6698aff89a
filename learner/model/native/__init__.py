"""Code in C++ for the processor at hand: compiled when it is first wanted, and kept in the user's cache."""

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from torch import Tensor

from feedback.core.files import cache_folder
from learner.model.machine import has_fast_bf16, processor_flags

logger = logging.getLogger("hearken.learner")

LANES = 16
"""Numbers in float32 of a register: what sizes are multiples of."""

HERE = Path(__file__).parent
SOURCES = (HERE / "trunk.cpp", HERE / "head.cpp", HERE / "linear.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC")


@cache
def library() -> ctypes.CDLL | None:
    """The code as a library, None where it cannot be had; the log says why.

    torch must have been imported: its threads are used, by the library of theirs that is loaded already.
    """
    if not has_fast_bf16():
        return None
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        logger.warning("there is no C++ compiler (c++): products stay in float32, which takes longer")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # no home, for one
        told = getattr(error, "stderr", None) or error
        logger.warning("%s does not compile; products stay in float32, which takes longer: %s", HERE, told)
        return None


def pointers(*tensors: Tensor | None) -> Iterator[ctypes.c_void_p]:
    """Where tensors lie, as arguments of the library; none of them may be gone before it returns."""
    yield from (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)


def numbers(*values: int) -> Iterator[ctypes.c_int64]:
    """Numbers as arguments of the library."""
    yield from map(ctypes.c_int64, values)


def _compiled(compiler: str) -> Path:
    """The library's file, made if need be. Its name tells the sources, the compiler and the processor."""
    # -march=native makes code for what the processor can do.
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    texts = [file.read_text() for file in (HERE / "products.h", *SOURCES)]
    about = "\0".join((*texts, *FLAGS, version, platform.machine(), *processor_flags()))
    folder = cache_folder() / "native"
    file = folder / f"products-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / file.name
            command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            made.replace(file)  # whole or not at all, whoever else compiles it
    return file
