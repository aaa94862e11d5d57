"""What theory says that a rank holds, and how a measurement is set beside it."""

import pytest

from benchmarks.engine_memory import ALL, REST, beside_theory, in_theory, predicted
from benchmarks.support import report

# Bytes a parameter on two ranks, as figure 1 of Rajbhandari et al. 2020 counts them, for fp32 and
# with the average of the weights: weights (twice what ZeRO optimises), gradients, moments, average.
THEORY = {
    "ddp": (4, 4, 8, 4),
    "zero1": (4 + 2, 4, 4, 2),
    "zero2": (4 + 2, 2, 4, 2),
    "zero3": (2 + 2, 2, 4, 2),
    "zero3_offload": (2 + 2, 2, 4, 2),
    "fsdp2": (2, 2, 4, 2),
}


@pytest.mark.parametrize("engine", THEORY)
def test_theory(engine):
    assert tuple(predicted(engine, 1).values()) == THEORY[engine]


def test_a_measurement_stands_beside_theory():
    held = {"weights": 3e6, REST: 2e6, "moments": 4e6, "average": 2e6, "peak": 13.6e6}
    entries = beside_theory("zero3", {"parameters": 1_000_000, **held})
    (all_held,) = [e for e in entries if (e["group"], e["name"]) == (ALL, "zero3")]
    assert all_held["rounds"] == [11.0]
    assert all_held["notes"] == {"MB at the allocator's peak": 14}
    assert sum("notes" in entry for entry in entries) == 1
    told = report.compare(entries, "weights", "zero3", in_theory("zero3"), None)
    assert told["median"] == 0.75
