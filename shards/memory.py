"""Memory that this process may still use."""

from __future__ import annotations

import contextlib
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # in a container its own control group, of version 2


def free_memory() -> int | None:
    """Return the bytes that the machine and a container's limit leave; None: unknown."""
    free = []
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # `max`: no limit
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free.append(limit - used)
    return min(free, default=None)
