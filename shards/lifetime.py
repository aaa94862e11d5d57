"""Helper processes that end with the process that started them.

    python -m shards.lifetime COMMAND...

runs a command that gets SIGTERM when its parent dies.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
)  # a rank saves and ends

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


_exit_actions: list[Callable[[], None]] = []


def before_exit(action: Callable[[], None]) -> None:
    """Register an action for `run_exit_actions`: it must end within seconds and not raise."""
    _exit_actions.append(action)


def run_exit_actions() -> None:
    """Run the registered actions; to be called before `os._exit`, which runs those of no module."""
    for action in _exit_actions:
        action()


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
