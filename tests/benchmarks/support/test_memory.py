"""Predicted peak memory equals the allocator's, and counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.support import memory
from benchmarks.support.batch_size.trainer_step import PageLosses, TrainerStep, made_up_batch
from tests.support.paths import REPO
from vaetrain.config.experiment import load_experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
DEFAULT = REPO / "launch" / "experiments" / "default.yaml"
# Few weights, so that activations are most of the peak.
SMALL = ("data.width=64", "data.max_height=256", "model.latent_dim=16")


def training_step(pages: int, *settings: str, micro_batches: int = 2):
    """Return a function that takes the first step of a training."""
    experiment = load_experiment(DEFAULT, [*SMALL, *settings])
    size = (experiment.data.max_height, experiment.data.width)

    def work(device: torch.device) -> None:
        step = TrainerStep(experiment, device)
        step([made_up_batch(pages, size, device) for _ in range(micro_batches)])

    return work


@pytest.mark.parametrize(
    ("pages", "settings"),
    [
        (4, []),
        (16, []),
        (8, ["train.checkpoint_activations=true"]),
        (8, ["train.precision=bf16"]),
        (8, ["train.channels_last=true"]),
        pytest.param(
            4,
            ["model.blocks=densenet", "model.attention=cbam", "model.skips=gated"],
            marks=pytest.mark.slow,
        ),
        pytest.param(2, ["model.size=small", "model.latent=spatial"], marks=pytest.mark.slow),
    ],
    ids=["few", "many", "checkpointing", "bf16", "channels-last", "densenet", "small"],
)
def test_prediction_is_within_a_tenth_of_the_measurement(pages, settings, tables):
    work = training_step(pages, *settings)
    predicted, measured = memory.predict(work, CPU), memory.measure(work, CPU)
    row = f"| {pages} | {' '.join(settings) or 'default'} | {predicted / 1e6:.1f} | "
    row += f"{measured / 1e6:.1f} | {predicted / measured:.3f} |"
    head = ["| pages | settings | predicted, MB | measured, MB | ratio |", "|---|---|---|---|---|"]
    tables.setdefault("Peak memory of a step", head).append(row)
    assert predicted == pytest.approx(measured, rel=0.1)


def test_prediction_for_an_unavailable_gpu_rounds_up_to_its_blocks():
    work = training_step(4, "train.precision=bf16")
    cpu, gpu = memory.predict(work, CPU), memory.predict(work, CUDA)
    assert cpu < gpu < 1.05 * cpu


def test_fake_cpu_tensors_stand_in_for_fake_cuda_tensors():
    """Compare the forward pass only: autograd cannot run backward on fake CUDA tensors."""
    experiment = load_experiment(DEFAULT, list(SMALL))
    size, peaks = (experiment.data.max_height, experiment.data.width), []
    for device in (CPU, CUDA):
        with FakeTensorMode(), memory.MemoryTracker(memory.CUDA_BLOCK) as tracker:
            losses = PageLosses(experiment, device)
            before = tracker.now
            kept = losses(made_up_batch(8, size, device))
            peaks.append(tracker.now - before)
            del kept
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


def test_peak_grows_with_pages_and_falls_with_checkpointing():
    few, many = training_step(2, micro_batches=1), training_step(4, micro_batches=1)
    saved = training_step(4, "train.checkpoint_activations=true", micro_batches=1)
    peak = memory.predict(many, CPU)
    assert memory.predict(few, CPU) < peak
    assert memory.predict(saved, CPU) < peak


def test_peak_equals_a_hand_count():
    """Three tensors of 4 KB are alive at once: a sum and both its terms."""

    def work(device: torch.device) -> None:
        a = torch.ones(1000)
        b = a[:500]  # a view shares the memory of its base
        c = torch.ones(1000)
        d = a + c
        del a, c, d, b
        torch.ones(2000)

    assert memory.predict(work, CPU) == memory.measure(work, CPU) == 12_000
    assert memory.predict(work, CUDA) == 3 * 4096


def test_freeing_an_earlier_allocation_is_not_counted():
    kept = [torch.ones(1000)]

    def work(device: torch.device) -> None:
        kept.clear()
        torch.ones(500)

    assert memory.measure(work, CPU) == 2000


@pytest.mark.parametrize("limit", [99, 100, 110, 111, 1000, 12_345])
def test_largest_number_of_pages_that_fits_is_found_in_few_calls(limit):
    calls = []

    def peak(pages: int) -> int:
        calls.append(pages)
        return 90 + max(10 * pages, 13 * pages - 40)

    pages = memory.largest_that_fits(peak, limit)
    assert (peak(pages) if pages else 0) <= limit < peak(pages + 1)
    assert len(calls) < 12
