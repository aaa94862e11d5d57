"""Settings of the C allocator on CPUs, so that freed memory is reused.

Each training step allocates and frees tensors of many megabytes. By default glibc maps and unmaps
each of them, and the kernel finds and clears its pages again: hundreds of MB per step.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
# Largest blocks, in bytes, that stay in the heap. Older versions of glibc allow the second only.
BLOCKS = (1 << 30, 1 << 25)


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory; does nothing with other C libraries.

    The process keeps the largest amount of memory that it has ever used.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, BLOCKS[0])
        # `mallopt` returns 0 if it refuses a size.
        any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in BLOCKS)
