"""Processes that do not outlive the one that started them."""

import ctypes
import sys

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send this process a signal when its parent dies, also of kill -9.

    Linux only; elsewhere nothing happens. The request outlives exec, and is not inherited by fork.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
