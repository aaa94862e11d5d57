"""Fatal-error handling of one rank: report the error to the log and the other ranks, then exit."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

import torch

from shards.errors import REMEDIES, ReaderFailed, one_line, plain_os_error
from shards.lifetime import run_exit_actions
from vaetrain import cli
from vaetrain.engines.heartbeat import Heartbeat

# Parts of the messages of gloo and NCCL on a rank that waited for one that died.
DEAD_RANK_MESSAGES = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
SAVE_MEMORY = "lower train.micro_batch_size or set train.checkpoint_activations=true"
SHARED_MEMORY, ENLARGE = "/dev/shm", "enlarge it, in Docker with --shm-size=1g"
MAX_MESSAGE = 300  # characters of an exception that are sent to the other ranks


def exit_after_exception(heartbeat: Heartbeat | None, *exception: Any) -> NoReturn:
    """Report an exception and exit with status 1; used as `sys.excepthook`.

    Python's own exit would wait for reader processes, which survive the SIGTERM it sends them,
    while the other ranks wait for this one in a collective. The kernel ends readers with their
    rank. If the exception is the consequence of another rank's death, that rank is reported, or the
    launcher's store if the network to it is broken.
    """
    kind, error, _ = exception
    is_consequence = isinstance(error, RuntimeError) and any(
        part in str(error) for part in DEAD_RANK_MESSAGES
    )
    if is_consequence and heartbeat is not None:
        failure = heartbeat.find_dead_ranks() or heartbeat.find_lost_store()
        if failure:
            heartbeat.end(failure)
    if reason := plain_reason(error):
        exit_this_rank(heartbeat, reason)
    sys.__excepthook__(*exception)
    if heartbeat is not None:
        heartbeat.report_failure(f"{kind.__name__}: {error}"[:MAX_MESSAGE])
    flush_output()
    run_exit_actions()
    os._exit(1)


def plain_reason(error: BaseException) -> str | None:
    """Return one line with cause and remedy for an exception that is no bug of this program.

    None for any other exception.
    """
    message, *_ = str(error).splitlines() or [type(error).__name__]
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if no_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return f"out of memory ({message}); {SAVE_MEMORY}"
    if isinstance(error, ReaderFailed):
        return message
    full = next((line for line in str(error).splitlines() if SHARED_MEMORY in line), None)
    if isinstance(error, RuntimeError) and full is not None:  # of NCCL
        return f"no space in {SHARED_MEMORY} ({one_line(full)}); {ENLARGE}"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return plain_os_error(error)
    return None


def exit_this_rank(heartbeat: Heartbeat | None, reason: str) -> NoReturn:
    """Report a failure that only this rank has seen, in one line, and exit with status 1.

    Python's own exit is skipped: it would wait for a collective in which other ranks wait for this
    one.
    """
    is_first = heartbeat is None or heartbeat.report_failure(reason)
    run_exit_actions()
    if is_first:
        cli.fail(reason)
    os._exit(1)


def flush_output() -> None:
    """Flush stdout and stderr; ignore an output that cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
