"""Perceptual distances: how far two pages are apart in the features of a frozen network.

Both networks see the page alone: whatever they compute below a page's rows is set to 0, which is
what their zero padding shows them under a page that stands alone. So a page in a padded batch is as
far from another as the two cropped to their rows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vaetrain.model.encoder import Encoder
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


def unit(x: Tensor) -> Tensor:
    """Features (B, C, H, W) scaled to length 1 at every place, as LPIPS does."""
    return x / ((x.square().sum(dim=1, keepdim=True) + TINY).sqrt() + 1e-10)


def page_mean(values: Tensor, rows: Tensor) -> Tensor:
    """The mean of (B, H, W), 0 below the pages, over each page's rows; 0 for none."""
    return values.sum(dim=(1, 2)) / (rows * values.shape[2]).clamp(min=1)
