"""Validation on fake CUDA tensors: encoding, accumulators and the parts that are gathered.

The results are read on the host, which fake tensors refuse; everything before that stays on the
device. Values are tested in `tests/vaetrain/evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)

from launch.diagnosis.device_path import OnlyOnDevice
from shards.reading.batch import Batch
from tests.support.engines import FakeEngine
from tests.support.fake_devices import CUDA, LATENT, PAGES, NoMixedDevices, Step, a_batch
from vaetrain.evaluation import validation
from vaetrain.evaluation.validation import SetCollector, encode_pages
from vaetrain.inference.each_page import gather_pages
from vaetrain.losses.weights import Weights

COMPARED = 3  # pages of each batch
KINDS = {
    "plain": (),
    "skips": ("model.skips=gated",),
    "ladder": ("model.skips=hierarchical",),
    "spatial": ("model.latent=spatial",),
    "levels": ("model.output=levels", "loss.pixel=nll", "model.skips=hierarchical"),
}


class RecordingEngine(FakeEngine):
    """A rank other than the main process, on the GPU; records the tensors that it sends."""

    device = CUDA

    def __init__(self) -> None:
        self.sent: list[Tensor] = []

    def sum(self, values: Tensor) -> Tensor:
        self.sent.append(values)
        return values

    def gather_to_main(self, rows: Tensor) -> None:
        self.sent.append(rows)


def encode(monkeypatch: pytest.MonkeyPatch, *settings: str) -> tuple[SetCollector, RecordingEngine]:
    """Encode two batches on fake tensors; return what they were collected in, and the engine."""
    engine = RecordingEngine()
    # Comparing ids on the host has a result whose size depends on their values.
    compared = lambda self, ids: torch.arange(COMPARED, device=CUDA)  # noqa: E731
    monkeypatch.setattr(SetCollector, "is_compared", compared)
    monkeypatch.setattr(SetCollector, "result", lambda self: self)
    with torch.device(CUDA):
        step = Step("none", *settings)
        batches = [a_batch(pictures=False), None, a_batch(pictures=True)]
    step.model.eval()
    weights = Weights(step.terms, beta=1.0)
    objective = step.forward.objective
    ids = torch.empty(COMPARED, dtype=torch.long)
    return encode_pages(step.model, watched(batches), engine, objective, weights, ids), engine


def watched(batches: list[Batch | None]) -> Iterator[Batch | None]:
    """Yield the batches; until the last one is done, no operation may leave the device."""
    with OnlyOnDevice():
        yield from batches


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_stays_on_the_device(monkeypatch, kind):
    collector, _ = encode(monkeypatch, *KINDS[kind])
    columns = sum(collector.sizes) + collector.structure_dim
    assert [rows.shape for rows in collector.rows] == [(COMPARED, columns)] * 2
    assert {rows.dtype for rows in collector.rows} == {torch.float32}
    assert collector.mu.count == 2 * PAGES


def test_parts_that_are_gathered_and_summed_are_on_the_device(monkeypatch):
    collector, engine = encode(monkeypatch)
    columns = sum(collector.sizes) + collector.structure_dim
    with OnlyOnDevice():
        assert gather_pages(collector.keys, collector.rows, columns, engine) is None
    # The number of pages is copied to the device, summed, and then read.
    with NoMixedDevices(), pytest.raises(DataDependentOutputException):
        collector.mu.moments(engine)
    assert {values.device for values in engine.sent} == {CUDA}
    assert [tuple(values.shape) for values in engine.sent] == [
        (2 * COMPARED, 2), (2 * COMPARED, columns), (), (LATENT,), (LATENT, LATENT),
    ]  # fmt: skip


def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare heights with rows on the CPU."""
    construct = SetCollector.__init__

    def broken(self: SetCollector, *arguments: Any) -> None:
        construct(self, *arguments)
        self.min_rows = torch.empty(self.min_rows.shape, dtype=torch.long, device="cpu")

    monkeypatch.setattr(SetCollector, "__init__", broken)


def accumulated_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulate moments on the CPU."""
    accumulator = validation.MomentAccumulator
    on_cpu = lambda dimensions, _: accumulator(dimensions, torch.device("cpu"))  # noqa: E731
    monkeypatch.setattr(validation, "MomentAccumulator", on_cpu)


def host_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a metric on the host in every batch."""
    metrics = validation.pixel_metrics

    def broken(*arguments: Any) -> dict[str, Tensor]:
        found = metrics(*arguments)
        found["l1"].mean().item()
        return found

    monkeypatch.setattr(validation, "pixel_metrics", broken)


@pytest.mark.parametrize("fault", [on_the_host, accumulated_on_the_host, host_read])
def test_a_fault_is_detected(monkeypatch, fault: Callable[[pytest.MonkeyPatch], None]):
    fault(monkeypatch)
    with pytest.raises(
        (AssertionError, FakeTensorDeviceMismatchError, DataDependentOutputException)
    ):
        encode(monkeypatch)
