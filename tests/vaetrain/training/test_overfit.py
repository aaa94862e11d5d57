"""Every architecture can overfit eight real pages, decoded from the latent without skips.

The slow test prints steps and seconds of each; NOTES.md has the table of a run.
"""

import dataclasses
import itertools
import time

import numpy as np
import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from shards.open import open_index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.shard_files import ShardFiles
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.data.config import SAMPLE_LAYOUTS
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.losses import ssim
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.vae import VAE
from vaetrain.training.step import ForwardStep

WIDTH, ROWS, TARGET_SSIM, MAX_STEPS = 64, 128, 0.97, 3000
SETTINGS = (
    "model.latent_dim=32",
    "optimizer.lr=3e-3",
    "augment.policy=none",
    "augment.mixup_alpha=0",
    "skips.dropout=0.5",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Batch:
    """Eight pages of the built-in sample, of different templates."""
    folder = tmp_path_factory.mktemp("overfit") / "shards"
    build([SAMPLE_LAYOUTS], folder, BuildOptions(count=120, workers=1))
    index = open_index(folder)
    _, first = np.unique(index.table["template"], return_index=True)
    collator = Collator(ShardFiles(index), width=WIDTH, max_height=ROWS, ladder=[ROWS], seed=0)
    return collator.batch(first[:8], np.zeros(8, np.int64), training=False)


def overfit(pages: Batch, *settings: str) -> tuple[int, float]:
    """Train without a KL until pages decoded from `mu` reach the SSIM; return steps and SSIM."""
    experiment = load_experiment(None, [*SETTINGS, *settings])
    torch.manual_seed(0)
    model = VAE(experiment.model, WIDTH, ROWS)
    forward = ForwardStep(
        experiment,
        model=model,
        vae=model,
        augment=Augment(load_policy(experiment.augment)),
        objective=Objective(experiment),
        device=torch.device("cpu"),
    )
    optimizer = build_optimizer(model, experiment.optimizer)
    images, heights = pages.images(), pages.heights
    similarity = 0.0
    for step in range(1, MAX_STEPS + 1):
        batch = dataclasses.replace(pages, epochs=torch.full_like(pages.ids, step))
        losses, _ = forward(batch, Weights({"recon": 1.0, "ssim": 0.5}), 1.0)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            with torch.no_grad():
                mu, _ = model.encode(images, heights)
                page = model.decode(mu, heights, pages.size).clamp(0, 1)
            similarity = float(ssim.ssim(page, images, heights).mean())
            if similarity >= TARGET_SSIM:
                break
    return step, similarity


def test_default_architecture_overfits(pages):
    steps, similarity = overfit(pages, "model.attention=none")
    assert similarity >= TARGET_SSIM, steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "attention", "skips", "latent"),
    list(
        itertools.product(
            ("resnet", "densenet"),
            ("none", "cbam"),
            ("none", "gated", "hierarchical"),
            ("vector", "spatial"),
        )
    ),
)
def test_every_architecture_overfits(pages, tables, blocks, attention, skips, latent):
    choices = {"blocks": blocks, "attention": attention, "skips": skips, "latent": latent}
    started = time.perf_counter()
    steps, similarity = overfit(pages, *(f"model.{key}={value}" for key, value in choices.items()))
    seconds = time.perf_counter() - started
    row = f"| {', '.join(choices.values())} | {steps} | {seconds:.0f} | {similarity:.4f} |"
    tables.setdefault("Eight pages: architecture, steps, seconds, SSIM", []).append(row)
    assert similarity >= TARGET_SSIM
