"""Exceptions with a plain reason are reported in one line; others keep their traceback."""

import errno
import os

import pytest
import torch

from shards import lifetime
from shards.errors import ReaderFailed
from vaetrain.engines.crash import exit_after_exception, exit_this_rank, plain_reason


def allocation_error() -> RuntimeError:
    """Return the error of torch's CPU allocator for an impossible size."""
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(1 << 60, device="cpu")
    return refusal.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        # A function, so that collecting the tests allocates nothing.
        (allocation_error, "out of memory ("),
        (
            lambda: torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
            "out of memory (CUDA",
        ),
        (MemoryError, "out of memory (MemoryError); lower train.micro_batch_size"),
        (lambda: ReaderFailed("a reader process was killed"), "a reader process was killed"),
        (
            lambda: RuntimeError("NCCL error\nError while creating /dev/shm/nccl-1 (size 9)"),
            "no space in /dev/shm (Error while creating /dev/shm/nccl-1 (size 9)); enlarge it, in",
        ),
        (
            lambda: OSError(errno.EMFILE, "Too many open files", "runs/x"),
            "runs/x: Too many open files; raise the limit on open files (ulimit -n)",
        ),
    ],
    ids=["cpu-allocator", "cuda-allocator", "python", "reader-process", "shm", "descriptors"],
)
def test_lack_of_a_resource_is_reported_in_one_line(error, message):
    reason = plain_reason(error())
    assert reason.startswith(message)
    assert "\n" not in reason


@pytest.mark.parametrize("error", [ValueError("can't allocate memory"), RuntimeError("shapes")])
def test_other_exceptions_have_no_plain_reason(error):
    assert plain_reason(error) is None


@pytest.mark.parametrize(
    "end",
    [
        lambda: exit_after_exception(None, ValueError, ValueError("a fault"), None),
        lambda: exit_after_exception(None, MemoryError, MemoryError(), None),
        lambda: exit_this_rank(None, "a damaged shard"),
    ],
    ids=["fault", "memory", "shard"],
)
def test_a_checkpoint_that_is_being_written_is_finished_first(end, monkeypatch):
    order = []

    def leave(status):
        order.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(lifetime, "_exit_actions", [lambda: order.append("finished")])
    with pytest.raises(SystemExit):
        end()
    assert order == ["finished", 1]
