"""Fréchet distance between two sets of pages in the features of a network.

A feature network takes `(images, heights)`: images (B, 1, H, W) in [0, 1], zero in the padding, and
Long (B,). It returns (B, columns). Its `metric` is the name of the distance in its features.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from vaetrain.evaluation.accumulators import Moments
from vaetrain.losses.backbones import torch_cache
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.registry import STRIDES
from vaetrain.settings import ConfigError

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
DOWNLOAD = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
RANDOM_CHANNELS = (32, 64, 128, 256)


def build_features() -> nn.Module:
    """Return the Inception network if available, else a network with random weights.

    Inception needs its weights in torch's cache and the torch-fidelity package. Raises ConfigError
    if the weights are damaged.
    """
    path = torch_cache(INCEPTION)
    available = path.is_file() and importlib.util.find_spec("torch_fidelity") is not None
    network = InceptionFeatures(path) if available else RandomFeatures()
    return network.eval().requires_grad_(False)


class InceptionFeatures(nn.Module):
    """Features of FID: last pooling layer of the Inception network of Heusel et al. 2017, ported.

    Each page, its grey in all three channels, is resized to 299 x 299 px without its padding, as
    FID does with any image.
    """

    metric, columns = "fid", 2048

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            torch.load(path, map_location="cpu", weights_only=True)  # the port unpickles anything
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(self.columns)], feature_extractor_weights_path=str(path)
            )
        except (OSError, EOFError, TypeError, RuntimeError, UnpicklingError) as error:
            raise ConfigError(
                f"{path}: not the weights of Inception ({error!r:.100}); "
                f"download {DOWNLOAD}{INCEPTION} to this path"
            ) from error

    def forward(self, images: Tensor, heights: Tensor) -> Tensor:
        """Compute the features page by page, because each is resized from its own rows."""
        levels = (images * 255).round().byte().expand(-1, 3, -1, -1)
        pages = zip(levels.split(1), heights.tolist(), strict=True)
        return torch.cat([self.network(page[:, :, :height])[0] for page, height in pages])


class RandomFeatures(nn.Module):
    """Features of a network with random weights: means over the page after four convolutions.

    Weights are fixed and initialised as in He et al. 2015, so that the activations of all stages
    have about the page's magnitude. Distances in these features are comparable with one another,
    not with FID.
    """

    metric, columns = "fid_random", sum(RANDOM_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False)
            for i, o in zip((1, *RANDOM_CHANNELS), RANDOM_CHANNELS, strict=False)
        )
        generator = torch.Generator().manual_seed(0)
        for stage in self.stages:
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu", generator=generator)

    def forward(self, images: Tensor, heights: Tensor) -> Tensor:
        """Compute the features of images (B, 1, H, W) with heights Long (B,): (B, columns)."""
        x, means = images, []
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            rows = rows_at(heights, images.shape[2] // stride, stride)
            x = keep(stage(x).relu(), rows)
            means.append(x.sum(dim=(2, 3)) / (rows.count * x.shape[3])[:, None])
        return torch.cat(means, dim=1)


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) of features and a matrix A (K, D) with A'A = their covariance; float64."""

    mean: Tensor
    root: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> Gaussian:
        """Return the Gaussian with the moments of features (N, D), N at least 2."""
        features = features.double()
        mean = features.mean(dim=0)
        root = torch.linalg.qr(features - mean, mode="r").R / (len(features) - 1) ** 0.5
        return cls(mean, root)

    @classmethod
    def from_moments(cls, moments: Moments) -> Gaussian:
        """Return the Gaussian with these moments of at least 2 pages."""
        covariance = moments.covariance * (moments.count / (moments.count - 1))
        variance, axes = torch.linalg.eigh(covariance)
        # Variances that are rounding errors are cleared: their roots would be far larger.
        rounding = len(variance) * torch.finfo(variance.dtype).eps * variance.max()
        root = variance.where(variance > rounding, 0.0).sqrt()
        return cls(moments.mean, root[:, None] * axes.T)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Compute the squared Fréchet distance of two sets' Gaussians (Heusel et al. 2017, eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) in float64, covariances with N - 1.
    """
    shift = first.mean - second.mean
    a, b = first.root, second.root
    # With C1 = A'A and C2 = B'B, the roots of the eigenvalues of C1 C2 are the singular values of
    # A B'. No root of a negative rounding error is taken, even with fewer pages than dimensions.
    common = torch.linalg.svdvals(a @ b.T).sum()
    total = shift.square().sum() + a.square().sum() + b.square().sum() - 2 * common
    return total.clamp(min=0).item()


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Compute the kernel inception distance of two sets of features (Binkowski et al. 2018, eq. 4).

    It is the unbiased estimate of the squared maximum mean discrepancy under the kernel
    (x'y / D + 1)^3; it may be negative.

    Args:
        first, second: (N, D), (M, D), N and M at least 2.
    """
    first, second = first.double(), second.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(features: Tensor) -> Tensor:
        values = kernel(features, features)
        count = len(features)
        return (values.sum() - values.diagonal().sum()) / (count * (count - 1))

    return (within(first) + within(second) - 2 * kernel(first, second).mean()).item()
