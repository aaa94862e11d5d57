"""Memory that is predicted on fake tensors is what the allocator gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.support import memory
from benchmarks.support.batch_size.trainer_step import PageLosses, TrainerStep, made_up_batch
from vaetrain.config.experiment import load_experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
DEFAULT = Path(__file__).resolve().parents[3] / "launch" / "experiments" / "default.yaml"
# Few weights, so that what is kept of the pages is most of the peak.
SMALL = ("data.width=64", "data.max_height=256", "model.latent_dim=16")


def a_step(pages: int, *settings: str, turns: int = 2):
    """The work of a training's first step, of two micro batches."""
    experiment = load_experiment(DEFAULT, [*SMALL, *settings])
    size = (experiment.data.max_height, experiment.data.width)

    def work(device: torch.device) -> None:
        step = TrainerStep(experiment, device)
        step([made_up_batch(pages, size, device) for _ in range(turns)])

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
def test_a_prediction_is_within_a_tenth_of_what_the_allocator_recorded(pages, settings, tables):
    work = a_step(pages, *settings)
    predicted, measured = memory.predict(work, CPU), memory.measure(work, CPU)
    row = f"| {pages} | {' '.join(settings) or 'default'} | {predicted / 1e6:.1f} | "
    row += f"{measured / 1e6:.1f} | {predicted / measured:.3f} |"
    head = ["| pages | settings | predicted, MB | measured, MB | ratio |", "|---|---|---|---|---|"]
    tables.setdefault("Peak memory of a step", head).append(row)
    assert predicted == pytest.approx(measured, rel=0.1)


def test_a_gpu_that_is_not_there_needs_what_its_blocks_hold():
    work = a_step(4, "train.precision=bf16")
    here, there = memory.predict(work, CPU), memory.predict(work, CUDA)
    assert here < there < 1.05 * here


def test_a_forward_pass_on_a_gpus_fake_tensors_needs_what_stands_in_for_it():
    """Autograd refuses to go back on them; what is kept until then can be compared."""
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


def test_more_pages_need_more_and_checkpointing_less():
    few, many = a_step(2, turns=1), a_step(4, turns=1)
    saved = a_step(4, "train.checkpoint_activations=true", turns=1)
    most = memory.predict(many, CPU)
    assert memory.predict(few, CPU) < most
    assert memory.predict(saved, CPU) < most


def test_bytes_are_counted_by_hand():
    """Three tensors of 4 KB at once: the sum is made while both its terms are alive."""

    def work(device: torch.device) -> None:
        a = torch.ones(1000)
        b = a[:500]  # a view has no memory of its own
        c = torch.ones(1000)
        d = a + c
        del a, c, d, b
        torch.ones(2000)

    assert memory.predict(work, CPU) == memory.measure(work, CPU) == 12_000
    assert memory.predict(work, CUDA) == 3 * 4096


def test_what_was_allocated_before_is_not_counted_when_it_goes():
    kept = [torch.ones(1000)]

    def work(device: torch.device) -> None:
        kept.clear()
        torch.ones(500)

    assert memory.measure(work, CPU) == 2000


@pytest.mark.parametrize("limit", [99, 100, 110, 111, 1000, 12_345])
def test_the_largest_that_fits(limit):
    asked = []

    def peak(pages: int) -> int:
        asked.append(pages)
        return 90 + max(10 * pages, 13 * pages - 40)

    found = memory.largest_that_fits(peak, limit)
    assert (peak(found) if found else 0) <= limit < peak(found + 1)
    assert len(asked) < 12
