"""The engine without the trainer: the same model, moments and average on any number of ranks."""

import json
import subprocess

import pytest

from tests.distributed.conftest import REPO, launcher

KINDS = ("weight", "average", "exp_avg", "exp_avg_sq")
# Of three ranks the last has less than the others, or nothing at all.
DEFAULT = [("zero3", 3), ("fsdp2", 3)]
SLOW = [
    *(("ddp", world) for world in (2, 4)),
    *(("zero1", world) for world in (1, 3)),
    *(("zero2", world) for world in (2, 3)),
    *(("zero3", world) for world in (1, 4)),
    ("zero3_offload", 3),
    *(("fsdp2", world) for world in (1, 4)),
]


def probe(engine: str, processes: int, losses: str = "exact") -> dict:
    """What `probe.py` finds."""
    command = [*launcher(engine, processes), "tests/distributed/probe.py", losses]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return json.loads(line.removeprefix("found "))


@pytest.fixture(scope="module")
def alone():
    return probe("single", 1)


@pytest.mark.parametrize(
    ("engine", "processes"),
    [*DEFAULT, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_any_world_computes_what_one_process_does(alone, engine, processes):
    found = probe(engine, processes)
    check(found, alone)
    assert found["agree"] == (processes == 1)
    parameters = len(alone["weight"])
    if engine == "ddp":
        assert found["held"] == parameters
    else:
        # No more than a rank's share, and what pads it: at most a row or two per parameter.
        assert found["held"] <= parameters / processes + 40


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero3", "fsdp2"])
def test_the_scale_of_losses_does_not_show(alone, engine):
    check(probe(engine, 2, "scaled"), alone)


def check(found: dict, alone: dict) -> None:
    """Both are the same run, but for the order of sums."""
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    assert found["beside_norms"] == pytest.approx(alone["beside_norms"], rel=1e-4)
    assert found["beside"] == pytest.approx(alone["beside"], rel=1e-5)
    assert found["step"] == alone["step"] == 6
    for kind in KINDS:
        assert found[kind] == pytest.approx(alone[kind], rel=1e-3, abs=1e-5), kind
    assert found["evaluated"] == [pytest.approx(row, rel=1e-4) for row in alone["evaluated"]]
