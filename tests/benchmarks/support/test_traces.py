"""Traces: time by purpose, FLOPs, intervals, and roofline bounds."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support import operation_costs, traces
from benchmarks.support.trainer_tasks import STEP
from shards.errors import UserError
from tests.benchmarks.trace_events import event, trace_of_step
from vaetrain.model.masked import MaskedGroupNorm, rows_at


class Block(nn.Module):
    """A strided convolution, a masked norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = MaskedGroupNorm(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x, heights):
        x = self.norm(self.convolution(x), rows_at(heights, x.shape[2] // 2, 2))
        return self.linear(F.silu(x).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return the trace of two steps of a block, and the FLOPs of one step."""
    model = Block()
    x = torch.rand(4, 3, 32, 16, requires_grad=True)
    heights = torch.tensor([32, 20, 7, 1])

    def step() -> None:
        with record_function("forward"):
            y = model(x, heights)
        with record_function("backward"):
            y.square().sum().backward()

    handles = operation_costs.label_modules(model)
    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(2):
            with record_function(STEP):
                step()
    for handle in handles:
        handle.remove()
    with FlopCounterMode(display=False) as counter:
        step()
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    profiler.export_chrome_trace(str(path))
    return traces.read(path), counter.get_total_flops()


def test_times_by_purpose_sum_to_the_time_of_a_step(recorded):
    trace, _ = recorded
    by_purpose = trace.by_purpose()
    for number, (start, end) in enumerate(trace.steps):
        total = sum(seconds[number] for seconds in by_purpose.values())
        assert total == pytest.approx(end - start, rel=1e-6)


def test_backward_pass_has_the_purpose_of_the_forward_pass(recorded):
    trace, _ = recorded
    names = {
        purpose: {each.name for each in trace.operations if each.purpose == purpose}
        for purpose in trace.by_purpose()
    }
    assert names["convolution"] == {"aten::conv2d", "aten::convolution_backward"}
    assert {"aten::linear", "aten::mm"} <= names["linear layers"]
    # The norm has a custom backward pass.
    own = {"aten::native_group_norm", "aten::native_group_norm_backward"}
    assert own <= names["normalisation"]
    assert "aten::silu" in names["rest of the model"]
    assert "aten::silu_backward" in names["rest of the model"]


def test_flops_equal_the_count_of_torch(recorded):
    trace, expected = recorded
    counted = sum(flops for _, flops, _ in trace.totals().values())
    assert counted == 2 * expected  # two steps


def microseconds(trace: traces.Trace) -> dict[str, float]:
    """Return the time by purpose, without purposes that took none."""
    return {name: round(1e6 * sum(s), 6) for name, s in trace.by_purpose().items() if sum(s)}


def test_called_operations_count_for_their_caller():
    trace = trace_of_step(
        event("forward", 10, 50, "user_annotation"),
        event("aten::linear", 20, 30),
        event("aten::addmm", 25, 20),
    )
    assert microseconds(trace) == {"rest of the model": 30, traces.OVERHEAD: 70}


def test_communication_counts_only_while_nothing_else_runs():
    trace = trace_of_step(
        event("forward", 10, 50, "user_annotation"),
        event("aten::add", 10, 40),
        event("gloo:all_reduce", 30, 50, tid=2),
    )
    assert microseconds(trace) == {
        "rest of the model": 40,
        traces.COMMUNICATION: 30,
        traces.OVERHEAD: 30,
    }


def test_waiting_for_data_excludes_operations():
    trace = trace_of_step(
        event("data", 0, 20, "user_annotation"),
        event("aten::to", 15, 5),
    )
    assert microseconds(trace) == {traces.WAITING: 15, traces.COPIES: 5, traces.OVERHEAD: 80}


def test_kernels_have_the_purpose_of_the_operation_that_started_them():
    trace = trace_of_step(
        event("layer: convolution", 0, 20, "user_annotation"),
        event("aten::conv2d", 5, 10, **{"External id": 1}),
        event("aten::cudnn_convolution", 6, 8, **{"External id": 2}),
        event("implicit_gemm", 30, 40, "kernel", tid=7, **{"External id": 2}),
        event("Memcpy HtoD (Pinned -> Device)", 80, 10, "gpu_memcpy", tid=8),
        event("ncclDevKernel_AllReduce", 60, 30, "kernel", tid=9),
    )
    assert trace.on_gpu
    assert microseconds(trace) == {
        "convolution": 40,
        traces.COPIES: 10,
        traces.COMMUNICATION: 10,
        traces.OVERHEAD: 40,
    }


def test_other_files_are_refused(tmp_path):
    (tmp_path / "trace.json").write_text("[]")
    with pytest.raises(UserError, match=r"not a trace of torch\.profiler"):
        traces.read(tmp_path / "trace.json")
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": []}))
    with pytest.raises(UserError, match="no steps are marked"):
        traces.read(tmp_path / "trace.json")


def test_intervals_are_merged_and_subtracted():
    assert traces.union([(3, 4), (0, 1), (1, 2), (0, 0.5)]) == [(0, 2), (3, 4)]
    assert traces.subtract([(0, 10)], [(2, 3), (5, 6), (9, 12)]) == [(0, 2), (3, 5), (6, 9)]
    assert traces.subtract([(0, 1), (2, 3)], [(0, 3)]) == []
    assert traces.subtract([(0, 1)], []) == [(0, 1)]
    assert traces.subtract([(4, 5)], [(0, 1), (2, 3)]) == [(4, 5)]


@pytest.mark.parametrize(
    ("seconds", "flops", "moved", "expected"),
    [
        (1.0, 80, 1, "compute"),
        (1.0, 10, 8, "memory"),
        (1.0, 10, 1, "overhead"),
        (2.0, 80, 8, "compute"),  # both explain 40% of it
    ],
)
def test_roofline_bound(seconds, flops, moved, expected):
    assert traces.roofline_bound(seconds, flops, moved, peak_flops=100, bandwidth=10) == expected
