"""How a rank ends that cannot go on: in one line where one says it all, and known to the others."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

import torch

from vaetrain import cli
from vaetrain.engines.heartbeat import Heartbeat

# What gloo and NCCL say of a rank that died, in the exceptions of those that waited for it.
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
SAVE_MEMORY = "lower train.micro_batch_size or set train.checkpoint_activations=true"
READ_LESS = "lower data.workers or data.prefetch"
MOST_WORDS = 300  # letters of an exception that other ranks are told


def exit_after_exception(heartbeat: Heartbeat | None, *crash: Any) -> NoReturn:
    """An exception hook: tell the exception, then end the process without Python's own exit.

    That one waits for reader processes, which outlive the SIGTERM it sends them, while the other
    ranks wait for this one in a collective. The kernel ends the readers with their rank. Where the
    exception means that another rank is gone, that one is named instead.
    """
    kind, error, _ = crash
    lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST)
    if lost and heartbeat is not None and (verdict := heartbeat.find_lost()):
        heartbeat.end(verdict)
    if reason := plain_reason(error):
        exit_this_rank(heartbeat, reason)
    sys.__excepthook__(*crash)
    if heartbeat is not None:
        heartbeat.last_words(f"{kind.__name__}: {error}"[:MOST_WORDS])
    flush_output()
    os._exit(1)


def plain_reason(error: BaseException) -> str | None:
    """What an exception means that is nobody's mistake in this program; None of any other."""
    said, *_ = str(error).splitlines() or [type(error).__name__]
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if no_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return f"out of memory ({said}); {SAVE_MEMORY}"
    if isinstance(error, RuntimeError) and said.startswith("DataLoader worker"):
        return f"a reader process was killed, as happens when memory runs out ({said}); {READ_LESS}"
    return None


def exit_this_rank(heartbeat: Heartbeat | None, reason: str) -> NoReturn:
    """Leave at once with exit status 1, for a reason that only this rank has seen, in one line.

    Its peers may be waiting for it in a collective, which the interpreter's own exit would wait
    for in turn.
    """
    if heartbeat is None or heartbeat.last_words(reason):
        cli.fail(reason)
    os._exit(1)


def flush_output() -> None:
    """Write what was printed; a log that cannot be written ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
