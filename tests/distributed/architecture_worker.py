"""Run by `test_architectures.py` on any number of ranks: a gradient of every architecture.

    accelerate launch ... tests/distributed/architecture_worker.py OUT.safetensors MICRO_BATCH

A global batch of eight pages of different heights, cut as asked; the gradient of the mean loss and
the losses themselves are written by the main process.
"""

from __future__ import annotations

import itertools
import os
import sys

import torch
from safetensors.torch import save_file

from shards.randomness import sample_keys
from tests.support.models import restless
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.base import Engine
from vaetrain.engines.factory import start_engine
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.vae import draw_noise

WIDTH, PAGES = 64, 8
HEIGHTS = torch.tensor([40, 64, 64, 33, 96, 128, 100, 90])
CHOICES = {
    "blocks": ("resnet", "densenet"),
    "attention": ("none", "cbam"),
    "skips": ("none", "gated", "hierarchical"),
    "latent": ("vector", "spatial"),
}


def pages() -> torch.Tensor:
    """All pages of the global batch, the same on every rank: (8, 1, 128, 64)."""
    images = torch.rand(PAGES, 1, 128, WIDTH, generator=torch.Generator().manual_seed(0))
    return images * (torch.arange(128) < HEIGHTS[:, None])[:, None, :, None]


def gradient(engine: Engine, micro: int, settings: list[str]) -> dict[str, torch.Tensor]:
    """The gradient of one architecture and its losses' sum, over all ranks."""
    experiment = load_experiment(None, ["model.latent_dim=8", *settings])
    model = restless(experiment.model, WIDTH, 128, 0.02)
    share = PAGES // engine.world_size
    engine.prepare(
        model,
        build_optimizer(model, experiment.optimizer),
        micro_batch=micro,
        accumulation=share // micro,
        clip_norm=0.0,
    )
    objective, weights = Objective(experiment), Weights({"recon": 1.0, "ssim": 0.1}, beta=1.0)
    images, total = pages(), torch.zeros(())
    for turn in range(share // micro):
        # As the trainer cuts it: a step's micro batches one after another, ranks side by side.
        first = turn * micro * engine.world_size + engine.rank * micro
        here = slice(first, first + micro)
        heights, ids = HEIGHTS[here], torch.arange(PAGES)[here]
        size = (-(-int(heights.max()) // 16) * 16, WIDTH)
        noise = draw_noise(model, sample_keys(0, torch.zeros_like(ids), ids, "eps"), size, 0.7, 0.3)
        page = images[here, :, : size[0]]
        with engine.micro_batch(last=turn == share // micro - 1):
            losses, _ = objective(engine.model(page, heights, noise), page, heights, weights)
            engine.backward(losses, PAGES)
        total += losses.detach().sum()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return found | {"loss": engine.sum(total)}


def main() -> None:
    """Measure all architectures and leave."""
    engine = start_engine(running_launch(os.environ), "no")
    found = {}
    for choice in itertools.product(*CHOICES.values()):
        settings = [f"model.{key}={value}" for key, value in zip(CHOICES, choice, strict=True)]
        for name, value in gradient(engine, int(sys.argv[2]), settings).items():
            found["-".join(choice) + "/" + name] = value
    if engine.is_main:
        save_file(found, sys.argv[1])
    engine.shut_down(0)


if __name__ == "__main__":
    main()
