"""Reductions of gradients in steps of one, two and four micro batches, counted on gloo ranks."""

import json

import pytest

from tests.support.commands import run_launched
from tests.support.engine_files import small_units

PARAMETERS = 20  # smallest unit of FSDP2: the model has two
# Engine, `engine.reduce_each_micro_batch`, and reductions with 1, 2 and 4 micro batches. Those of
# ddp and ZeRO are of the model's one bucket, those of FSDP2 of its two units.
EXPECTED = [
    ("single", "auto", (0, 0, 0)),
    ("ddp", "auto", (1, 1, 1)),
    ("zero1", "auto", (1, 1, 1)),
    ("zero1_offload", "auto", (1, 1, 1)),
    ("zero2", "auto", (1, 2, 4)),
    ("zero2_offload", "auto", (1, 2, 4)),
    ("zero3", "auto", (1, 2, 4)),
    ("zero3_offload", "auto", (1, 2, 4)),
    ("fsdp2", "auto", (2, 2, 2)),
    ("fsdp2", "false", (2, 2, 2)),
    ("fsdp2", "true", (2, 4, 8)),
]


def steps(engine: str, folder, *arguments: str) -> list[dict]:
    """Return what `reductions.py` finds in steps of 1, 2 and 4 micro batches."""
    ranks = 1 if engine == "single" else 2
    file = small_units(engine, folder, PARAMETERS)
    program = "tests/distributed/programs/reductions.py"
    done = run_launched(file, program, *arguments, processes=ranks)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    return [found[count] for count in ("1", "2", "4")]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "each", "expected"), EXPECTED)
def test_gradients_are_reduced_once_a_step_or_in_every_micro_batch(
    engine, each, expected, tmp_path
):
    found = steps(engine, tmp_path, each)
    counted = [step["collectives"].get("all_reduce fp32", 0) for step in found]
    assert tuple(counted) == expected, found
    for step in found[1:]:
        assert step["norms"] == pytest.approx(found[0]["norms"], rel=1e-5)
