"""What a trace says: whose time it was, what was computed, and what bounds it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import profile_kernels
from benchmarks.support import purposes, traces
from benchmarks.support.steps import STEP
from shards.errors import UserError
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
    """The trace of two steps of a block, and the FLOPs of one."""
    model = Block()
    x = torch.rand(4, 3, 32, 16, requires_grad=True)
    heights = torch.tensor([32, 20, 7, 1])

    def step() -> None:
        with record_function("forward"):
            y = model(x, heights)
        with record_function("backward"):
            y.square().sum().backward()

    handles = purposes.label_modules(model)
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


def test_every_moment_of_a_step_has_one_purpose(recorded):
    trace, _ = recorded
    by_purpose = trace.by_purpose()
    for number, (start, end) in enumerate(trace.steps):
        told = sum(seconds[number] for seconds in by_purpose.values())
        assert told == pytest.approx(end - start, rel=1e-6)


def test_a_layers_backward_pass_is_for_what_its_forward_pass_was_for(recorded):
    trace, _ = recorded
    names = {
        purpose: {each.name for each in trace.operations if each.purpose == purpose}
        for purpose in trace.by_purpose()
    }
    assert names["convolution"] == {"aten::conv2d", "aten::convolution_backward"}
    assert {"aten::linear", "aten::mm"} <= names["linear layers"]
    # The norm's gradient is written by hand; its last sums over the batch come nowhere else.
    assert {"aten::rsqrt", "aten::sub_"} <= names["normalisation"]
    assert "aten::silu" in names["rest of the model"]
    assert "aten::silu_backward" in names["rest of the model"]


def test_flops_are_those_that_torch_counts(recorded):
    trace, expected = recorded
    counted = sum(flops for _, flops, _ in trace.totals().values())
    assert counted == 2 * expected  # two steps


def test_flops_of_a_convolution_by_hand():
    told = {
        "Input Dims": [[2, 3, 8, 6], [5, 3, 3, 3], [], [], [], [], [], [], []],
        "Concrete Inputs": ["", "", "", "[2, 1]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"],
    }
    # 2 pages x 4 x 6 places x 5 channels, each 3 x 3 x 3 products and sums.
    assert purposes.flops("aten::convolution", told) == 2 * (2 * 4 * 6 * 5) * (3 * 3 * 3)
    assert purposes.flops("aten::conv2d", told) == 0  # what it calls counts


def test_bytes_are_read_and_written_once():
    two = {"Input Dims": [[4, 8], [4, 8]], "Input type": ["float", "float"]}
    assert purposes.bytes_moved("aten::add", two) == 3 * 4 * 32
    assert purposes.bytes_moved("aten::add_", two) == 3 * 4 * 32
    assert purposes.bytes_moved("aten::view", two) == 0
    one = {"Input Dims": [[4, 8], []], "Input type": ["c10::BFloat16", "Scalar"]}
    assert purposes.bytes_moved("aten::sum", one) == 2 * 32
    several = {"Input Dims": [[[2], [3]], [[2], [3]]], "Input type": ["TensorList", "TensorList"]}
    assert purposes.bytes_moved("aten::_foreach_add_", several) == 3 * 4 * 5


def event(name: str, start: float, length: float, kind: str = "cpu_op", tid: int = 1, **args):
    return {
        "ph": "X", "cat": kind, "name": name, "ts": start, "dur": length, "pid": 1, "tid": tid,
        "args": args,
    }  # fmt: skip


def made(*events) -> traces.Trace:
    return traces.trace_of([event(STEP, 0, 100, "user_annotation"), *events], "made")


def told(trace: traces.Trace) -> dict[str, float]:
    """Microseconds by purpose."""
    return {name: round(1e6 * sum(s), 6) for name, s in trace.by_purpose().items() if sum(s)}


def test_operations_that_another_one_calls_are_its_own():
    trace = made(
        event("forward", 10, 50, "user_annotation"),
        event("aten::linear", 20, 30),
        event("aten::addmm", 25, 20),
    )
    assert told(trace) == {"rest of the model": 30, traces.OVERHEAD: 70}


def test_communication_counts_where_nothing_else_is_done():
    trace = made(
        event("forward", 10, 50, "user_annotation"),
        event("aten::add", 10, 40),
        event("gloo:all_reduce", 30, 50, tid=2),
    )
    assert told(trace) == {"rest of the model": 40, traces.COMMUNICATION: 30, traces.OVERHEAD: 30}


def test_waiting_for_data_is_what_no_operation_fills():
    trace = made(
        event("data", 0, 20, "user_annotation"),
        event("aten::to", 15, 5),
    )
    assert told(trace) == {traces.WAITING: 15, traces.COPIES: 5, traces.OVERHEAD: 80}


def test_kernels_are_for_what_started_them():
    trace = made(
        event("layer: convolution", 0, 20, "user_annotation"),
        event("aten::conv2d", 5, 10, **{"External id": 1}),
        event("aten::cudnn_convolution", 6, 8, **{"External id": 2}),
        event("implicit_gemm", 30, 40, "kernel", tid=7, **{"External id": 2}),
        event("Memcpy HtoD (Pinned -> Device)", 80, 10, "gpu_memcpy", tid=8),
        event("ncclDevKernel_AllReduce", 60, 30, "kernel", tid=9),
    )
    assert trace.on_gpu
    assert told(trace) == {
        "convolution": 40,
        traces.COPIES: 10,
        traces.COMMUNICATION: 10,
        traces.OVERHEAD: 40,
    }


def test_what_is_no_trace_is_refused(tmp_path):
    (tmp_path / "trace.json").write_text("[]")
    with pytest.raises(UserError):
        traces.read(tmp_path / "trace.json")
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": []}))
    with pytest.raises(UserError, match="marks no steps"):
        traces.read(tmp_path / "trace.json")


def test_intervals():
    assert traces.union([(3, 4), (0, 1), (1, 2), (0, 0.5)]) == [(0, 2), (3, 4)]
    assert traces.without([(0, 10)], [(2, 3), (5, 6), (9, 12)]) == [(0, 2), (3, 5), (6, 9)]
    assert traces.without([(0, 1), (2, 3)], [(0, 3)]) == []
    assert traces.without([(0, 1)], []) == [(0, 1)]
    assert traces.without([(4, 5)], [(0, 1), (2, 3)]) == [(4, 5)]


@pytest.mark.parametrize(
    ("seconds", "flops", "moved", "expected"),
    [
        (1.0, 80, 1, "compute"),
        (1.0, 10, 8, "memory"),
        (1.0, 10, 1, "overhead"),
        (2.0, 80, 8, "compute"),  # both explain 40% of it
    ],
)
def test_what_bounds_some_work(seconds, flops, moved, expected):
    assert traces.bound(seconds, flops, moved, peak_flops=100, bandwidth=10) == expected


def test_two_traces_side_by_side():
    old = made(event("forward", 0, 90, "user_annotation"), event("aten::add", 10, 40))
    new = made(event("forward", 0, 90, "user_annotation"), event("aten::add", 10, 10))
    lines = profile_kernels.comparison(old, new).splitlines()
    assert lines[1].split() == ["rest", "of", "the", "model", "0.040", "0.010", "-0.030"]
    assert any(line.startswith("rest of the model: add") for line in lines)
