"""What memory this machine has: RAM that may still be taken, and the sizes of its GPUs. Without torch."""

import ctypes
import importlib.metadata
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_ram_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """RAM that new processes can have: what the system calls available, and no more than the container's
    limit leaves (cgroup v2). None where neither can be read."""
    found = [size for size in (_available(meminfo), _left_in_container(cgroup)) if size is not None]
    return min(found, default=None)


def _available(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left_in_container(cgroup: Path) -> int | None:
    """The limit less what is taken; cached files count as free, because the kernel gives them up."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        taken = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
        return None if limit == "max" else max(0, int(limit) - taken + cached)
    except (OSError, ValueError):
        return None


def card_bytes() -> list[int]:
    """The memory of each GPU that this process may use, in the order of CUDA_VISIBLE_DEVICES."""
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
