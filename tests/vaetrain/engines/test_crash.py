"""Exceptions with a plain reason are reported in one line; others keep their traceback."""

import pytest
import torch

from vaetrain.engines.crash import plain_reason


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
        (
            lambda: RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "a reader process was",
        ),
    ],
    ids=["cpu-allocator", "cuda-allocator", "python", "reader-process"],
)
def test_lack_of_memory_is_reported_in_one_line(error, message):
    reason = plain_reason(error())
    assert reason.startswith(message)
    assert "\n" not in reason


@pytest.mark.parametrize("error", [ValueError("can't allocate memory"), RuntimeError("shapes")])
def test_other_exceptions_have_no_plain_reason(error):
    assert plain_reason(error) is None
