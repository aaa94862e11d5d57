"""Build the networks of perceptual losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vaetrain.losses.config import LossConfig
from vaetrain.losses.perceptual import BACKBONES, RANDOM, FeatureDistance, backbone_file
from vaetrain.model.config import ModelConfig
from vaetrain.model.encoder import Encoder
from vaetrain.settings import ConfigError

LoadEncoder = Callable[[str], Encoder]
"""Loads the page encoder of a run directory."""


def no_encoder(run: str) -> Encoder:
    """Refuse to load an encoder, where no loader was given."""
    raise ConfigError(f"loss.perceptual_weights: {run} cannot be loaded here")


def build_perceptual(loss: LossConfig, load_encoder: LoadEncoder = no_encoder) -> nn.Module:
    """The frozen network that `loss.perceptual_net` names, on the CPU.

    Its forward takes `(prediction, target, heights)`, images (B, 1, H, W) in [0, 1] and Long (B,),
    and returns (B,).

    Raises ConfigError where its weights are not there.
    """
    if loss.perceptual_net == "features":
        network: nn.Module = FeatureDistance(_page_encoder(loss.perceptual_weights, load_encoder))
    else:
        from vaetrain.losses.lpips import MaskedLPIPS

        network = MaskedLPIPS(loss.perceptual_net, loss.perceptual_weights)
    return network.eval().requires_grad_(False)


def find_lpips(loss: LossConfig) -> tuple[str, nn.Module] | None:
    """LPIPS as a metric, as far as it is there: its name, `lpips_<net>`, and the network.

    The backbone and its weights are those of the loss; AlexNet's where the loss has no backbone,
    and those of torch's cache where its weights are random. None where they are not there.
    """
    net = loss.perceptual_net if loss.perceptual_net in BACKBONES else "alex"
    own = net == loss.perceptual_net and loss.perceptual_weights != RANDOM
    weights = loss.perceptual_weights if own else None
    try:
        backbone_file(net, weights)  # before seconds of imports
        chosen = LossConfig(perceptual_net=net, perceptual_weights=weights)
        return f"lpips_{net}", build_perceptual(chosen)
    except ConfigError:
        return None


def _page_encoder(run: str | None, load_encoder: LoadEncoder) -> Encoder:
    if run is not None:
        return load_encoder(run)
    # The same random weights in every run: they are part of what the loss means.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(ModelConfig(size="tiny", attention="none"))
