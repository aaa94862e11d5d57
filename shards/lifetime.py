"""Helper processes that end with the process that started them.

    python -m shards.lifetime COMMAND...

runs a command that gets SIGTERM when its parent dies.
"""

import ctypes
import os
import signal
import sys

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
)  # a rank saves and ends

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send this process a signal when its parent dies, even by `kill -9`.

    Works on Linux only and does nothing elsewhere. The request survives exec, and fork does not
    inherit it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])
