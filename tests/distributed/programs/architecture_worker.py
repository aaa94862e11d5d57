"""Gradient of every architecture; run by `test_architectures.py` on any number of ranks.

    accelerate launch ... architecture_worker.py OUT.safetensors MICRO_BATCH

The global batch is eight pages of different heights, split into micro batches. The main process
writes the gradient of the mean loss, and the sum of the losses.
"""

from __future__ import annotations

import os
import sys

import torch
from safetensors.torch import save_file

from shards.reading.batch import Batch
from tests.support.models import (
    ARCHITECTURES,
    architecture_name,
    perturbed_model,
    settings_of,
)
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.base import Engine
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.training.step import ForwardStep

WIDTH, ROWS, PAGES = 64, 128, 8
HEIGHTS = torch.tensor([40, 64, 64, 33, 96, 128, 100, 90])
SETTINGS = ("model.latent_dim=8", "augment.policy=none", "skips.dropout=0.3")


def micro_batch(ids: torch.Tensor) -> Batch:
    """Return these pages of the global batch, which is the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (PAGES, 1, ROWS, WIDTH), generator=generator, dtype=torch.uint8)
    pixels *= (torch.arange(ROWS) < HEIGHTS[:, None])[:, None, :, None]
    heights = HEIGHTS[ids]
    size = (-(-int(heights.max()) // 16) * 16, WIDTH)
    zeros = torch.zeros_like(ids)
    canvas = torch.stack([torch.full_like(heights, WIDTH), heights], 1).float()
    pages = pixels[ids, :, : size[0]]
    return Batch(ids, zeros, heights, size, tops=zeros, canvas=canvas, pixels=pages)


def gradient(engine: Engine, micro: int, settings: list[str]) -> dict[str, torch.Tensor]:
    """Return the gradient of one architecture and the sum of its losses, over all ranks."""
    experiment = load_experiment(None, [*SETTINGS, *settings])
    model = perturbed_model(experiment.model, WIDTH, ROWS, 0.02)
    accumulation = PAGES // engine.world_size // micro
    engine.prepare(
        model,
        build_optimizer(model, experiment.optimizer),
        micro_batch=micro,
        accumulation=accumulation,
        clip_norm=0.0,
    )
    forward = ForwardStep(
        experiment,
        model=engine.model,
        vae=engine.module,
        augment=Augment(load_policy(experiment.augment)),
        objective=Objective(experiment),
        device=engine.device,
    )
    weights, total = Weights({"recon": 1.0, "ssim": 0.1}, beta=1.0), torch.zeros(())
    for index in range(accumulation):
        # The order of the trainer: the micro batches of all ranks side by side, then the next ones.
        first = index * micro * engine.world_size + engine.rank * micro
        batch = micro_batch(torch.arange(first, first + micro))
        with engine.micro_batch(last=index == accumulation - 1):
            losses, _ = forward(batch, weights, 0.7)
            engine.backward(losses, PAGES)
        total += losses.detach().sum()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return gradients | {"loss": engine.sum(total)}


def main() -> None:
    """Compute the gradients of all architectures and exit."""
    engine = start_engine(running_launch(os.environ), "no")
    gradients = {}
    for architecture in ARCHITECTURES:
        settings = settings_of(architecture)
        for name, value in gradient(engine, int(sys.argv[2]), settings).items():
            gradients[f"{architecture_name(architecture)}/{name}"] = value
    if engine.is_main:
        save_file(gradients, sys.argv[1])
    engine.shut_down(0)


if __name__ == "__main__":
    main()
