"""Memory on a CPU: kept for the next step, not handed back to the kernel.

A step frees and allocates maps of many megabytes again and again. glibc maps each anew and unmaps
it afterwards, so that the kernel has to find and clear all its pages: hundreds of MB a step.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
BLOCKS = (1 << 30, 1 << 25)  # bytes of the largest that are kept; the second is glibc's old limit


def keep_freed_memory() -> None:
    """Use freed memory again; the process then holds the most that it has ever held.

    Of glibc only; elsewhere nothing happens.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, BLOCKS[0])
        any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in BLOCKS)
