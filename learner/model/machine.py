"""This machine's fast arithmetic, and how its memory is best kept."""

import ctypes
import sys
from pathlib import Path

BF16_FLAG = "avx512_bf16"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT_BYTES = 1 << 30


def has_fast_bf16() -> bool:
    """Whether the processor multiplies matrices in bfloat16, several times as fast as in float32."""
    return BF16_FLAG in processor_flags()


def processor_flags() -> list[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return next((line for line in info.splitlines() if line.startswith("flags")), "").split()


def keep_freed_memory() -> None:
    """Let malloc keep what it frees for the next tensor instead of giving it back to the system.

    An update frees and takes the same few megabytes hundreds of times; fetching them anew, page by page, was
    a tenth of its time. Does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 32)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
