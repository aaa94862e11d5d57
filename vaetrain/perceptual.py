"""Perceptual distances: how far two pages are apart in the features of a frozen network.

Both networks see the page alone: whatever they compute below a page's rows is set to 0, which is
what their zero padding shows them under a page that stands alone. So a page in a padded batch is as
far from another as the two cropped to their rows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vaetrain.config import LossConfig, ModelConfig
from vaetrain.encoder import Encoder
from vaetrain.handover import load_model
from vaetrain.settings import ConfigError

# The backbones of LPIPS, and their weights as torchvision names them.
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
DOWNLOADS = "https://download.pytorch.org/models/"
RANDOM = "random"  # in place of a file: the backbone's random initial weights
TINY = 1e-20  # under a root, so that its slope at features of 0 is finite


def build_perceptual(loss: LossConfig) -> nn.Module:
    """The frozen network that `loss.perceptual_net` names, on the CPU.

    Its forward takes `(prediction, target, heights)`, images (B, 1, H, W) in [0, 1] and Long (B,),
    and returns (B,).

    Raises ConfigError where its weights are not there.
    """
    if loss.perceptual_net == "features":
        network: nn.Module = FeatureDistance(_page_encoder(loss.perceptual_weights))
    else:
        from vaetrain.masked_lpips import MaskedLPIPS  # seconds to import

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


def backbone_file(net: str, weights: str | None) -> Path:
    """Where a backbone's weights are; raises ConfigError where they are not."""
    name = BACKBONES[net]
    path = Path(weights) if weights is not None else torch_cache(name)
    if not path.is_file():
        raise ConfigError(
            f"loss.perceptual_net: {net} needs the weights {path}, which are not there and are "
            f"never downloaded; get {DOWNLOADS}{name} and place it there, or set "
            "loss.perceptual_weights to it, or loss.perceptual_net=features"
        )
    return path


def torch_cache(name: str) -> Path:
    """Where torch keeps a file of weights that it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


class FeatureDistance(nn.Module):
    """The distance in the features of a page encoder.

    At each of the encoder's stages the features of every place are scaled to length 1, and their
    squared differences summed over channels and averaged over the page: LPIPS (Zhang et al. 2018,
    eq. 1) with all weights 1. The mean over the stages is returned.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
        """(B, 1, H, W) twice and Long (B,) to (B,)."""
        with torch.autocast(prediction.device.type, enabled=False):
            ours = self.encoder(prediction.float(), heights)
            theirs = self.encoder(target.float(), heights)
        levels = [
            page_mean((unit(a) - unit(b)).square().sum(dim=1), rows.count)
            for (a, rows), (b, _) in zip(ours, theirs, strict=True)
        ]
        return torch.stack(levels).mean(dim=0)


def _page_encoder(run: str | None) -> Encoder:
    if run is not None:
        return load_model(run).encoder
    # The same random weights in every run: they are part of what the loss means.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(ModelConfig(size="tiny", attention="none"))


def unit(x: Tensor) -> Tensor:
    """Features (B, C, H, W) scaled to length 1 at every place, as LPIPS does."""
    return x / ((x.square().sum(dim=1, keepdim=True) + TINY).sqrt() + 1e-10)


def page_mean(values: Tensor, rows: Tensor) -> Tensor:
    """The mean of (B, H, W), 0 below the pages, over each page's rows; 0 for none."""
    return values.sum(dim=(1, 2)) / (rows * values.shape[2]).clamp(min=1)
