"""FLOPs of a model's training step, counted on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from shards.randomness import sample_keys
from vaetrain.evaluation.validation import probe_settings
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE, draw_noise


def model_flops(config: ModelConfig, width: int, max_height: int, pages: int, rows: int) -> int:
    """Count the FLOPs of a forward and backward pass of `pages` pages padded to `rows` rows.

    Convolutions and matrix products are counted, a multiplication and an addition as two.
    """

    def work() -> None:
        model = VAE(config, width, max_height)
        ids = torch.zeros(pages, dtype=torch.long)
        noise = draw_noise(model, sample_keys(0, ids, ids, "eps"), (rows, width), 1.0, 0.0)
        output = model(torch.zeros(pages, 1, rows, width), ids, noise)
        losses = [each.sum() for each in (output.reconstruction, output.mu, output.logvar)]
        (sum(losses) + output.ladder.sum()).backward()

    return count(work)


def validation_flops(config: ModelConfig, width: int, max_height: int, rows: int) -> int:
    """Count the FLOPs of the model in a validation of one page of `rows` rows.

    The page is encoded once, and reconstructed from `mu` and by every probe, see `encode_pages`.
    """

    def work() -> None:
        model = VAE(config, width, max_height)
        ids = torch.zeros(1, dtype=torch.long)
        noise = draw_noise(model, sample_keys(0, ids, ids, "eps"), (rows, width), 1.0, 0.0)
        posterior = model.posterior(torch.zeros(1, 1, rows, width), ids + rows)
        for settings in ({}, *probe_settings(model).values()):
            model.reconstruct(posterior, ids + rows, (rows, width), ladder=noise.ladder, **settings)

    with torch.no_grad():
        return count(work)


def count(work: Callable[[], Any]) -> int:
    """Count the FLOPs of a function that makes all its tensors itself; they will be fake."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
