"""LPIPS of pages of different heights in one batch.

Import this module only where LPIPS is used: lpips and torchvision take seconds to import.
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

from vaetrain.losses.backbones import RANDOM, backbone_file
from vaetrain.losses.page_means import zero_padded_mean
from vaetrain.losses.perceptual import unit_length
from vaetrain.settings import ConfigError

MIN_ROWS = 64  # lower images leave no row for the last pooling layer of a backbone


class MaskedLPIPS(nn.Module):
    """LPIPS (Zhang et al. 2018, eq. 1), version 0.1, of pages of different heights in one batch.

    Feature maps are set to 0 below each page's rows, so that a page in a padded batch has the
    features of the page alone.
    """

    def __init__(self, net: str, weights: str | None) -> None:
        """Build LPIPS on a backbone.

        Args:
            net: `alex`, `vgg` or `squeeze`.
            weights: the backbone's file; None: torch's cache; "random": random weights.

        Raises ConfigError naming the missing file, its download address and its place.
        """
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips uses deprecated arguments of torchvision
            self.lpips = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if weights != RANDOM:
            self._load_backbone(backbone_file(net, weights))

    def _load_backbone(self, path: Path) -> None:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            # torchvision's `features.3.weight` is `slice2.3.weight` in lpips.
            for name, parameter in self.lpips.net.named_parameters():
                parameter.data.copy_(weights["features." + name.partition(".")[2]])
        except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
            raise ConfigError(
                f"{path}: cannot be read as the weights of a backbone ({error!r:.100})"
            ) from error

    def forward(self, prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
        """Compare images (B, 1, H, W) of Long (B,) valid rows: (B,)."""
        with torch.autocast(prediction.device.type, enabled=False):
            both = torch.cat([prediction, target]).float()
            both = F.pad(both, (0, 0, 0, max(0, MIN_ROWS - both.shape[2])))
            levels = self._features(both.expand(-1, 3, -1, -1), heights.repeat(2))
            total = prediction.new_zeros(len(prediction), dtype=torch.float32)
            for (features, rows), layer in zip(levels, self.lpips.lins, strict=True):
                predicted, expected = unit_length(features).chunk(2)
                weighted = layer((predicted - expected).square()).squeeze(1)
                total = total + zero_padded_mean(weighted, rows[: len(total)])
        return total

    def _features(self, images: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        x = _zero_padding(self.lpips.scaling_layer(2 * images - 1), rows)
        levels = []
        for number in range(self.lpips.net.N_slices):
            for layer in getattr(self.lpips.net, f"slice{number + 1}"):
                x, rows = _masked_layer(layer, x, rows)
            levels.append((x, rows))
        return levels


def _masked_layer(layer: nn.Module, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Apply one layer of a backbone; return its output, 0 below the pages, and its valid rows."""
    if isinstance(layer, Fire):
        x = _zero_padding(layer.squeeze_activation(layer.squeeze(x)), rows)
        expanded = [
            layer.expand1x1_activation(layer.expand1x1(x)),
            layer.expand3x3_activation(layer.expand3x3(x)),
        ]
        return _zero_padding(torch.cat(expanded, dim=1), rows), rows
    x = layer(x)
    if isinstance(layer, nn.Conv2d):
        rows = (rows + 2 * layer.padding[0] - layer.kernel_size[0]) // layer.stride[0] + 1
    elif isinstance(layer, nn.MaxPool2d):
        # A pooling window may reach below the page: its zeros never exceed the output of a ReLU.
        slack = layer.stride - 1 if layer.ceil_mode else 0
        rows = (rows + slack - layer.kernel_size) // layer.stride + 1
    rows = rows.clamp(min=0)
    return _zero_padding(x, rows), rows


def _zero_padding(x: Tensor, rows: Tensor) -> Tensor:
    """Set (B, C, H, W) to 0 from each page's row count on."""
    padding = torch.arange(x.shape[2], device=x.device) >= rows[:, None]
    return x.masked_fill(padding[:, None, :, None], 0)
