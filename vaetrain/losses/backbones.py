"""Paths of the pretrained weights of LPIPS' backbones. The weights are never downloaded."""

from __future__ import annotations

from pathlib import Path

from vaetrain.settings import ConfigError

# The backbones of LPIPS with the file names of their weights in torchvision.
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
DOWNLOADS = "https://download.pytorch.org/models/"
RANDOM = "random"  # instead of a file: the backbone's random initial weights


def backbone_file(net: str, weights: str | None) -> Path:
    """Return the path of a backbone's weights; raises ConfigError if there is no such file.

    Args:
        net: a key of `BACKBONES`.
        weights: path of the file; None: the file in torch's cache.
    """
    name = BACKBONES[net]
    path = Path(weights) if weights is not None else torch_cache(name)
    if not path.is_file():
        raise ConfigError(
            f"loss.perceptual_net: {net} needs the weights {path}, which do not exist and are "
            f"never downloaded; get {DOWNLOADS}{name} and place it there, or set "
            "loss.perceptual_weights to its path, or loss.perceptual_net=features"
        )
    return path


def torch_cache(name: str) -> Path:
    """Return the path at which torch keeps a downloaded file of weights."""
    import torch  # imported late: the settings import this module before torch is imported

    return Path(torch.hub.get_dir()) / "checkpoints" / name
