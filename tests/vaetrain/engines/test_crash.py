"""What exceptions mean in plain words, and that others keep their traceback."""

import pytest
import torch

from vaetrain.engines.crash import plain_reason
from vaetrain.engines.heartbeat import named


def the_allocators() -> RuntimeError:
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(1 << 60, device="cpu")
    return refusal.value


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (the_allocators(), "out of memory ("),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), "out of memory (CUDA"),
        (MemoryError(), "out of memory (MemoryError); lower train.micro_batch_size"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a reader process was"),
    ],
)
def test_want_of_memory_is_told_in_a_line(error, says):
    reason = plain_reason(error)
    assert reason.startswith(says)
    assert "\n" not in reason


@pytest.mark.parametrize("error", [ValueError("can't allocate memory"), RuntimeError("shapes")])
def test_mistakes_of_the_program_are_not(error):
    assert plain_reason(error) is None


def test_ranks_are_named_in_words():
    assert named([1], "is", "are") == "rank 1 is"
    assert named([0, 2], "is", "are") == "ranks 0 and 2 are"
    assert named([0, 2, 5], "has", "have") == "ranks 0, 2 and 5 have"
