"""Engines without the trainer have the same weights, moments and EMA on any number of ranks."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run_launched
from tests.support.engine_files import HYBRID, small_units

KINDS = ("weight", "average", "exp_avg", "exp_avg_sq")
UNIT = 20  # parameters of a unit of FSDP2
# With three ranks the last one has a smaller slice of some parameters, or none.
DEFAULT = [("fsdp2", 3), (HYBRID, 4)]
SLOW = [
    *(("ddp", world) for world in (2, 4)),
    *(("zero1", world) for world in (1, 3)),
    *(("zero2", world) for world in (2, 3)),
    *(("zero3", world) for world in (1, 3, 4)),
    *((f"zero{stage}_offload", 3) for stage in (1, 2, 3)),
    *(("fsdp2", world) for world in (1, 4)),
    *(("fsdp2_offload", world) for world in (1, 2)),
]


def probe(engine: str | Path, processes: int, losses: str = "exact", *each: str) -> dict:
    """Run `probe.py` and return its results.

    Args:
        each: whether gradients are reduced in every micro batch; nothing: once a step.
    """
    program = "tests/distributed/programs/probe.py"
    done = run_launched(engine, program, losses, *each, processes=processes)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return json.loads(line.removeprefix("found "))


@pytest.fixture(scope="module")
def one_process():
    return probe("single", 1)


@pytest.mark.parametrize(
    ("engine", "processes"),
    [*DEFAULT, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_any_world_size_has_the_results_of_one_process(one_process, engine, processes, tmp_path):
    found = probe(small_units(engine, tmp_path, UNIT) if engine == HYBRID else engine, processes)
    check(found, one_process)
    assert found["numbers_equal"] == (processes == 1)
    assert found.get("loaded", found["weight"]) == found["weight"]
    assert ("loaded" in found) == engine.startswith("fsdp2")
    parameters = len(one_process["weight"])
    if engine == "ddp":
        assert found["held"] == parameters
    else:
        # A rank's share with padding, which is at most a row or two per parameter.
        parts = processes / 2 if engine == HYBRID else processes
        assert found["held"] <= parameters / parts + 40


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero3", "fsdp2"])
def test_the_loss_scale_does_not_change_results(one_process, engine):
    check(probe(engine, 2, "scaled"), one_process)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "processes"), [("fsdp2", 2), (HYBRID, 4)])
def test_gradients_reduced_in_every_micro_batch_are_the_same(
    one_process, engine, processes, tmp_path
):
    file = small_units(engine, tmp_path, UNIT)
    check(probe(file, processes, "exact", "true"), one_process)


def check(found: dict, expected: dict) -> None:
    """Assert that two runs are the same up to the order of floating-point sums."""
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert found["outside_norms"] == pytest.approx(expected["outside_norms"], rel=1e-4)
    assert found["outside"] == pytest.approx(expected["outside"], rel=1e-5)
    assert found["step"] == expected["step"] == 6
    for kind in KINDS:
        assert found[kind] == pytest.approx(expected[kind], rel=1e-3, abs=1e-5), kind
    assert found["evaluated"] == [pytest.approx(row, rel=1e-4) for row in expected["evaluated"]]
