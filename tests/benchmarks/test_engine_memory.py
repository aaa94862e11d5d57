"""Theory of a rank's memory, its comparison with a measurement, and the number of ranks."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.engine_memory import (
    ALL,
    KINDS,
    beside_theory,
    in_theory,
    launch_command,
)
from benchmarks.support import report
from benchmarks.support.memory import REST, predicted_state
from benchmarks.support.scaling_model import WeightSizes
from launch.planning.memory import engine_memory
from tests.benchmarks.quick_run import names_of, quick_run
from vaetrain.engines import devices
from vaetrain.engines.spec import ENGINES

# Bytes a parameter on two ranks, as figure 1 of Rajbhandari et al. 2020 counts them, for fp32 and
# with the EMA of the weights: weights (ZeRO: also its optimised part), gradients, moments, EMA.
THEORY = {
    "ddp": (4, 4, 8, 4),
    "zero1": (4 + 2, 4, 4, 2),
    "zero1_offload": (4 + 2, 4, 4, 2),
    "zero2": (4 + 2, 2, 4, 2),
    "zero2_offload": (4 + 2, 2, 4, 2),
    "zero3": (2 + 2, 2, 4, 2),
    "zero3_offload": (2 + 2, 2, 4, 2),
    "fsdp2": (2, 2, 4, 2),
    "fsdp2_hybrid": (2, 2, 4, 2),
    "fsdp2_offload": (2, 2, 4, 2),
}


@pytest.mark.parametrize("engine", THEORY)
def test_theory_is_that_of_the_paper(engine):
    assert tuple(predicted_state(engine, 1, 2).values()) == THEORY[engine]


@pytest.mark.parametrize(
    ("engine", "keeps", "state"),
    [
        ("fsdp2", False, (5000, 4400, 0)),
        ("fsdp2", True, (5000, 4400 + 4000, 0)),  # whole gradients between micro batches
        ("fsdp2_offload", False, (0, 4400, 5000)),
    ],
)
def test_planned_memory_of_fsdp2(engine, keeps, state):
    """Of 1,000 parameters on four ranks, 700 are gathered at once, and a unit has 200."""
    model = SimpleNamespace(weights=WeightSizes(1000, 600, 50), gathered=700, largest_unit=200)
    found = engine_memory(ENGINES[engine], model, 4, keeps_gradients=keeps)
    assert (found.device, found.gathered, found.host) == state


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 2), (1, 1), (8, 8)])
def test_every_gpu_has_one_rank(gpus, ranks, monkeypatch):
    """Two ranks were started on one GPU, which NCCL refuses."""
    monkeypatch.setattr(devices, "installed_gpus", lambda: (gpus, False))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = torch.device("cuda" if gpus else "cpu")
    command, environment = launch_command("zero2", "tiny", device)
    assert command[command.index("--num_processes") + 1] == str(ranks)
    assert environment.get("CUDA_VISIBLE_DEVICES") == (None if gpus else "")


def test_gpus_are_hidden_in_a_measurement_on_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "installed_gpus", lambda: (8, False))
    command, environment = launch_command("ddp", "tiny", torch.device("cpu"))
    assert command[command.index("--num_processes") + 1] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_results_have_measurement_and_theory_by_kind():
    memory = {"weights": 3e6, REST: 2e6, "moments": 4e6, "average": 2e6, "peak": 13.6e6, "ranks": 2}
    entries = beside_theory("zero3", {"parameters": 1_000_000, **memory})
    (total,) = [e for e in entries if (e["group"], e["name"]) == (ALL, "zero3")]
    assert total["rounds"] == [11.0]
    assert total["notes"] == {"MB at the allocator's peak": 14}
    assert sum("notes" in entry for entry in entries) == 1
    comparison = report.compare(entries, "weights", "zero3", in_theory("zero3"), None)
    assert comparison["median"] == 0.75


@pytest.mark.slow
def test_quick_run_compares_every_kind_with_theory(tmp_path):
    record, _ = quick_run("engine_memory", tmp_path, "--engines", "ddp", "fsdp2")
    for kind in (*KINDS, ALL):
        names = {"ddp", "ddp, theory", "fsdp2", "fsdp2, theory"}
        assert names_of(record, kind) == names
    weights = [each for each in record["comparisons"] if each["group"] == "weights"]
    assert [each["met"] for each in weights] == [True, True]
