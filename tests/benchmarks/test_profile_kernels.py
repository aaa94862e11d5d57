"""The kernel profile: results by purpose, comparison of two traces, and a quick run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import profile_kernels
from benchmarks.support import traces
from benchmarks.support.device_peak import Peak
from tests.benchmarks.quick_run import names_of, quick_run
from tests.benchmarks.trace_events import event, trace_of_step


def test_results_have_the_time_share_and_bound_of_each_purpose():
    matmul = {"Input Dims": [[100, 100], [100, 100]], "Input type": ["float", "float"]}
    trace = trace_of_step(
        event("forward", 0, 90, "user_annotation"),
        event("aten::mm", 10, 40, **matmul),
    )
    # 2 MFLOP take 20 us at the peak of 100 GFLOP/s, half of the measured 40 us: compute-bound.
    peak = Peak(flops=100e9, bandwidth=100e9, results=[])
    model, overhead = profile_kernels.results_by_purpose(trace, peak)
    assert (model["name"], model["median"]) == ("rest of the model", pytest.approx(0.04))
    assert model["notes"]["% of a step"] == 40
    assert model["notes"]["GFLOP/s"] == 50
    assert model["notes"]["bound"] == "compute"
    assert (overhead["name"], overhead["median"]) == (traces.OVERHEAD, pytest.approx(0.06))
    assert overhead["notes"] == {"% of a step": 60}


def test_comparison_lists_purposes_and_operations_with_their_change():
    old, new = (
        trace_of_step(
            event("forward", 0, 90, "user_annotation"), event("aten::add", 10, microseconds)
        )
        for microseconds in (40, 10)
    )
    lines = profile_kernels.comparison(old, new).splitlines()
    assert lines[1].split() == ["rest", "of", "the", "model", "0.040", "0.010", "-0.030"]
    assert any(line.startswith("rest of the model: add") for line in lines)


@pytest.mark.slow
def test_quick_run_leaves_a_trace_that_can_be_compared(tmp_path):
    record, stdout = quick_run("profile_kernels", tmp_path, "model.attention=cbam")
    assert names_of(record, profile_kernels.GROUP) >= {
        *("convolution", "normalisation", "attention", "pooling", "linear layers", "optimizer"),
        *("drawing", "augmentation", "loss: ssim", "loss: l1", traces.OVERHEAD),
    }
    assert "operations that take longest" in stdout
    trace = tmp_path / profile_kernels.TRACE
    assert len(traces.read(trace).steps) == profile_kernels.QUICK_STEPS
    command = [sys.executable, "-m", "benchmarks.profile_kernels", "--compare", trace, trace]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].split()[-1] == "+0.000"
