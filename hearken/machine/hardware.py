"""What memory this machine has: RAM, in all and free, and the sizes of its GPUs. Without torch."""

import ctypes
import importlib.metadata
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def ram_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """RAM of this machine, or of the container where that is limited to less (cgroup v2). None where neither
    can be read."""
    return _less(_meminfo(meminfo, "MemTotal"), _number(cgroup / "memory.max"))


def free_ram_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """The part of `ram_bytes` that new processes can have now. Cached files count as free: the kernel gives
    them up."""
    limit, taken = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    left = None if limit is None or taken is None else max(0, limit - taken + _cached(cgroup))
    return _less(_meminfo(meminfo, "MemAvailable"), left)


def _less(*sizes: int | None) -> int | None:
    return min((size for size in sizes if size is not None), default=None)


def _meminfo(meminfo: Path, name: str) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _number(file: Path) -> int | None:
    """A cgroup's number; None for "max", and where there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cached(cgroup: Path) -> int:
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError):
        return 0


def card_bytes() -> list[int]:
    """The memory of each GPU that this process may use, in the order of CUDA_VISIBLE_DEVICES. Asked of the
    driver itself: importing torch takes 3 s."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    sizes = []
    for index in range(count.value):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
            return []
        if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) != 0:
            return []
        sizes.append(size.value)
    return sizes


def torch_has_cuda() -> bool:
    """Whether the installed torch can use GPUs; the builds for CPUs alone say so in their version."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
