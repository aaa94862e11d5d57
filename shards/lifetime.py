"""Helper processes: what they are forked from, and that they do not outlive their parent.

python -m shards.lifetime COMMAND...       runs it, and ends it by SIGTERM when its parent dies
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # they ask a rank to save

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send this process a signal when its parent dies, also of kill -9.

    Linux only; elsewhere nothing happens. The request outlives exec, and is not inherited by fork.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def start_reader_server(*modules: str) -> None:
    """Begin to start the process that reader processes are forked from; returns at once.

    It has no threads. A fork of the trainer itself, with those of its process group, now and then
    hung before its first line of Python. Started early, it imports while the trainer does.

    Args:
        modules: what the server imports, so that its forks need not.
    """
    # The server finds modules where a new interpreter would, not where this one does.
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    multiprocessing.set_forkserver_preload(["shards.reading.reader_server", *modules])
    # What is ignored stays so in the server: a launcher signals the whole process group of a rank,
    # which asks the rank to save, and for that it still needs its readers.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    forkserver.ensure_running()
    for number, handler in before.items():
        signal.signal(number, handler)


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])
