"""Compiled blocks in real processes, under the engines that can run them.

The backend `aot_eager` traces forward and backward pass as `inductor` does, but generates no code,
which takes minutes on a CPU.
"""

import json

import pytest

from tests.support.commands import run_launched

BLOCKS = 7  # of `tiny`
PLAIN, RECOMPUTED, BF16 = (
    "train.precision=no",
    "train.checkpoint_activations=true",
    "train.precision=bf16",
)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_compiled_blocks_give_the_losses_of_eager_ones(engine):
    """No graph breaks, and the number of graphs has a bound, whatever the number of heights."""
    cases = PLAIN, RECOMPUTED, BF16
    done = run_launched(
        engine, "tests/distributed/programs/compile_worker.py", *cases, timeout=1500
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert len(lines) == len(cases)
    for line in lines:
        found = json.loads(line.removeprefix("found "))
        tolerance = 1e-3 if found["case"] == BF16 else 1e-5
        assert found["compiled"] == pytest.approx(found["eager"], rel=tolerance), line
        assert found["weights"] < tolerance, line
        assert found["breaks"] == {}, line
        assert BLOCKS <= found["graphs"][0] <= found["graphs"][-1] <= 2 * BLOCKS, line
