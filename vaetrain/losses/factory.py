"""Builders of the loss terms' functions and of the networks of perceptual losses."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from vaetrain.losses.backbones import BACKBONES, RANDOM, backbone_file
from vaetrain.losses.config import LossConfig
from vaetrain.losses.perceptual import FeatureDistance
from vaetrain.losses.terms import PIXEL_LOSSES, LossTerm
from vaetrain.model.config import ModelConfig
from vaetrain.model.encoder import Encoder
from vaetrain.settings import ConfigError

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes `(prediction, target, heights)`, see `LossTerm`, and returns (B,)."""

LoadEncoder = Callable[[str], Encoder]
"""Loads the page encoder of a run directory."""


def no_encoder(run: str) -> Encoder:
    """Raise ConfigError: the default of callers that load no runs."""
    raise ConfigError(
        f"loss.perceptual_weights: {run}: a run's encoder cannot be loaded by this command"
    )


def build_term(term: LossTerm, loss: LossConfig, load_encoder: LoadEncoder) -> LossFunction:
    """Return the function of a loss term; raises ConfigError if a network's weights are missing."""
    if term.builder is not None:
        return resolve_name(term.builder)(loss, load_encoder)
    return resolve_name(term.function)


def build_pixel_loss(loss: LossConfig, load_encoder: LoadEncoder = no_encoder) -> LossFunction:
    """Return the pixel loss that `loss.pixel` names."""
    return resolve_name(PIXEL_LOSSES[loss.pixel].function)


def build_perceptual(loss: LossConfig, load_encoder: LoadEncoder = no_encoder) -> nn.Module:
    """Build the frozen network that `loss.perceptual_net` names, on the CPU.

    Its forward is a `LossFunction`. Raises ConfigError if its weights are missing.
    """
    if loss.perceptual_net == "features":
        network: nn.Module = FeatureDistance(_page_encoder(loss.perceptual_weights, load_encoder))
    else:
        from vaetrain.losses.lpips import MaskedLPIPS  # imports lpips and torchvision: seconds

        network = MaskedLPIPS(loss.perceptual_net, loss.perceptual_weights)
    return network.eval().requires_grad_(False)


def find_lpips(loss: LossConfig) -> tuple[str, nn.Module] | None:
    """Return LPIPS as a metric: its name `lpips_<net>` and the network; None without its weights.

    The backbone and its weights are those of the loss. AlexNet is used if the loss has no backbone,
    and torch's cache if the loss has random weights.
    """
    net = loss.perceptual_net if loss.perceptual_net in BACKBONES else "alex"
    has_own_weights = net == loss.perceptual_net and loss.perceptual_weights != RANDOM
    weights = loss.perceptual_weights if has_own_weights else None
    try:
        backbone_file(net, weights)  # checked before the imports, which take seconds
        config = LossConfig(perceptual_net=net, perceptual_weights=weights)
        return f"lpips_{net}", build_perceptual(config)
    except ConfigError:
        return None


def _page_encoder(run: str | None, load_encoder: LoadEncoder) -> Encoder:
    if run is not None:
        return load_encoder(run)
    # A fixed seed: random features are part of the loss and must be the same in every run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(ModelConfig(size="tiny", attention="none"))
