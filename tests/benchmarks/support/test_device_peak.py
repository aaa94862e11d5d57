"""Peak rates of a device: FLOPs by torch's own count, and the best of the shapes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support import device_peak

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_work(monkeypatch):
    """Shrink the shapes and the work of a round."""
    monkeypatch.setattr(device_peak, "MATMULS", ((8, 4, 2),))
    monkeypatch.setattr(device_peak, "CONVOLUTIONS", ((2, 5, 3),))
    monkeypatch.setattr(device_peak, "STREAMED", {"cpu": 64})
    monkeypatch.setattr(device_peak, "TINY_OPERATIONS", 5)
    monkeypatch.setattr(device_peak, "ROUND_FLOPS", 10_000)


def test_flops_of_a_round_equal_the_count_of_torch():
    for case in device_peak._compute_cases(CPU, torch.float32):
        with FlopCounterMode(display=False) as counter:
            flops = case.run()
        assert flops == counter.get_total_flops() > 5_000


def test_bytes_of_a_round_are_read_and_written_once():
    bytes_of = {case.name: case.run() for case in device_peak._memory_cases(CPU)}
    assert bytes_of == {device_peak.COPY: 2 * 4 * 64, device_peak.TRIAD: 3 * 4 * 64}


def test_peak_is_the_best_median_of_the_shapes(monkeypatch):
    def interleave(cases, **timing):
        return {case.name: [1e9 * (place + 1)] for place, case in enumerate(cases)}

    monkeypatch.setattr(device_peak.harness, "interleave", interleave)
    peak = device_peak.measure(CPU)
    assert (peak.flops, peak.bandwidth) == (2e9, 2e9)
    groups = [entry["group"] for entry in peak.results]
    assert groups == [device_peak.COMPUTE] * 2 + [device_peak.MEMORY] * 2 + [device_peak.LAUNCH]
