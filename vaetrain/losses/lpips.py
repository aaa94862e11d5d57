"""LPIPS of pages of different heights in one batch.

Imported only where it is used: lpips and torchvision take seconds.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError

import lpips
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from vaetrain.losses.perceptual import RANDOM, backbone_file, page_mean, unit
from vaetrain.settings import ConfigError

LEAST_ROWS = 64  # with fewer, LPIPS' pooling has nothing left to pool


class MaskedLPIPS(nn.Module):
    """LPIPS (Zhang et al. 2018, eq. 1), version 0.1, of pages of different heights in one batch."""

    def __init__(self, net: str, weights: str | None) -> None:
        """Build on the backbone `alex`, `vgg` or `squeeze`.

        Args:
            weights: its file; None: torch's cache; "random": random weights.

        Raises ConfigError naming the file that is missing, and where it belongs.
        """
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by its older names
            self.lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if weights != RANDOM:
            self._load_backbone(backbone_file(net, weights))

    def _load_backbone(self, path: Path) -> None:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            # `features.3.weight` there is `slice2.3.weight` here.
            for name, parameter in self.lpips.net.named_parameters():
                parameter.data.copy_(weights["features." + name.partition(".")[2]])
        except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
            raise ConfigError(f"{path}: is not a backbone's weights ({error!r:.100})") from error

    def forward(self, prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
        """(B, 1, H, W) twice and Long (B,) to (B,)."""
        with torch.autocast(prediction.device.type, enabled=False):
            both = torch.cat([prediction, target]).float()
            both = F.pad(both, (0, 0, 0, max(0, LEAST_ROWS - both.shape[2])))
            levels = self._features(both.expand(-1, 3, -1, -1), heights.repeat(2))
            total = prediction.new_zeros(len(prediction), dtype=torch.float32)
            for (features, rows), layer in zip(levels, self.lpips.lins, strict=True):
                ours, theirs = unit(features).chunk(2)
                weighed = layer((ours - theirs).square()).squeeze(1)
                total = total + page_mean(weighed, rows[: len(total)])
        return total

    def _features(self, images: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        x = _below_zero(self.lpips.scaling_layer(2 * images - 1), rows)
        levels = []
        for number in range(self.lpips.net.N_slices):
            for layer in getattr(self.lpips.net, f"slice{number + 1}"):
                x, rows = _masked_layer(layer, x, rows)
            levels.append((x, rows))
        return levels


def _masked_layer(layer: nn.Module, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """One layer of a backbone, and the rows that it leaves of each page; zero below them."""
    if isinstance(layer, Fire):
        x = _below_zero(layer.squeeze_activation(layer.squeeze(x)), rows)
        wide = [
            layer.expand1x1_activation(layer.expand1x1(x)),
            layer.expand3x3_activation(layer.expand3x3(x)),
        ]
        return _below_zero(torch.cat(wide, dim=1), rows), rows
    x = layer(x)
    if isinstance(layer, nn.Conv2d):
        rows = (rows + 2 * layer.padding[0] - layer.kernel_size[0]) // layer.stride[0] + 1
    elif isinstance(layer, nn.MaxPool2d):
        # A window partly below the page sees zeros there, which no ReLU is below.
        slack = layer.stride - 1 if layer.ceil_mode else 0
        rows = (rows + slack - layer.kernel_size) // layer.stride + 1
    rows = rows.clamp(min=0)
    return _below_zero(x, rows), rows


def _below_zero(x: Tensor, rows: Tensor) -> Tensor:
    """(B, C, H, W) with zeros from each page's row count on."""
    below = torch.arange(x.shape[2], device=x.device) >= rows[:, None]
    return x.masked_fill(below[:, None, :, None], 0)
