"""The Fréchet distance between two sets of pages, in the features of a network.

Networks take `(images, heights)`, images (B, 1, H, W) in [0, 1], zero below each page's rows, and
Long (B,), and return (B, columns). Their `metric` is the distance's name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from vaetrain.losses.perceptual import torch_cache
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.sizes import STRIDES
from vaetrain.settings import ConfigError

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
DOWNLOAD = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
RANDOM_CHANNELS = (32, 64, 128, 256)


def build_features() -> nn.Module:
    """The network that pages are compared by: Inception's, or a random one where it is not there.

    Inception is there where its file is in torch's cache and torch-fidelity is installed. Raises
    ConfigError where the file is damaged.
    """
    path = torch_cache(INCEPTION)
    there = path.is_file() and importlib.util.find_spec("torch_fidelity") is not None
    network = InceptionFeatures(path) if there else RandomFeatures()
    return network.eval().requires_grad_(False)


class InceptionFeatures(nn.Module):
    """Those of FID: the last pooling of the Inception network of Heusel et al. 2017, by its port.

    A page alone, grey in all three colours, is resized to 299 x 299 px, as FID does with any image.
    """

    metric, columns = "fid", 2048

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            torch.load(path, map_location="cpu", weights_only=True)  # it would unpickle anything
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(self.columns)], feature_extractor_weights_path=str(path)
            )
        except (OSError, EOFError, TypeError, RuntimeError, UnpicklingError) as error:
            raise ConfigError(
                f"{path}: is not Inception's weights ({error!r:.100}); get {DOWNLOAD}{INCEPTION}"
            ) from error

    def forward(self, images: Tensor, heights: Tensor) -> Tensor:
        """One page after the other: each is resized from its own rows."""
        levels = (images * 255).round().byte().expand(-1, 3, -1, -1)
        pages = zip(levels.split(1), heights.tolist(), strict=True)
        return torch.cat([self.network(page[:, :, :height])[0] for page, height in pages])


class RandomFeatures(nn.Module):
    """The means over the page of what four convolutions with fixed random weights find in it.

    The weights are those of He et al. 2015, so that every stage is about as bright as the page.
    Distances in these features are comparable with one another, and with no FID.
    """

    metric, columns = "fid_random", sum(RANDOM_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False)
            for i, o in zip((1, *RANDOM_CHANNELS), RANDOM_CHANNELS, strict=False)
        )
        same = torch.Generator().manual_seed(0)
        for stage in self.stages:
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu", generator=same)

    def forward(self, images: Tensor, heights: Tensor) -> Tensor:
        """(B, 1, H, W) and Long (B,) to (B, columns)."""
        x, means = images, []
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            rows = rows_at(heights, images.shape[2] // stride, stride)
            x = keep(stage(x).relu(), rows)
            means.append(x.sum(dim=(2, 3)) / (rows.count * x.shape[3])[:, None])
        return torch.cat(means, dim=1)


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with two sets' moments (Heusel et al. 2017, eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64; covariances with N - 1.

    Args:
        ours, theirs: (N, D) and (M, D) features, N and M at least 2.
    """
    shift = ours.double().mean(dim=0) - theirs.double().mean(dim=0)
    first, second = _root(ours.double()), _root(theirs.double())
    # With C1 = A'A and C2 = B'B the roots of C1 C2's eigenvalues are A B's singular values: no
    # root is taken of a rounding error, however few the pages.
    common = torch.linalg.svdvals(first @ second.T).sum()
    total = shift.square().sum() + first.square().sum() + second.square().sum() - 2 * common
    return total.clamp(min=0).item()


def _root(features: Tensor) -> Tensor:
    """A triangular A (K, D) with A'A = the covariance of features (N, D)."""
    centred = features - features.mean(dim=0)
    return torch.linalg.qr(centred, mode="r").R / (len(features) - 1) ** 0.5
