"""Saved weights of a model: checked, loaded, and distributed over the ranks with little memory.

A rank of an engine that loads slices never holds the whole model: the model is divided on `meta`,
without memory, and the rank reads its slices of the checkpoint. Ranks of the other engines read a
share of the weights each and receive the others, a bucket at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vaetrain.artifacts.final_model import load_weights
from vaetrain.engines.base import Engine
from vaetrain.engines.slices import RangeReader, read_in_shares
from vaetrain.model.vae import VAE


def build_model(make: Callable[[], VAE], engine: Engine, weights: RangeReader | None) -> VAE:
    """Return a model on the engine's device, or on `meta` if its weights are loaded by slice.

    Args:
        make: builds the model on the current device.
        weights: saved ones; None: the model keeps those that it starts with.
    """
    if weights is None or not engine.spec.loads_slices:
        return make().to(engine.device)
    with torch.device("meta"):
        return make()


def check_weights(skeleton: VAE, weights: RangeReader, folder: Path) -> None:
    """Raise ConfigError naming the folder if saved weights do not fit a model on `meta`."""
    shapes = {name: torch.empty(weights.shape(name), device="meta") for name in weights}
    load_weights(skeleton, shapes, folder)


def distribute_model(
    model: VAE,
    optimizer: torch.optim.Optimizer,
    engine: Engine,
    weights: RangeReader | None,
    **settings: Any,
) -> None:
    """Distribute a model over the ranks, and load its saved weights if there are some. Collective.

    Args:
        model: from `build_model`; its saved weights were checked.
        settings: of `Engine.prepare`.
    """
    by_slice = engine.spec.loads_slices
    if weights is not None and not by_slice:
        own = model.state_dict()
        for name, tensor in read_in_shares(weights, engine.rank, engine.world_size, engine.device):
            own[name].copy_(tensor)
    engine.prepare(model, optimizer, **settings)
    if weights is not None and by_slice:
        engine.load_weights(weights)
