"""Models, and runs that have them, for tests that need no training."""

from pathlib import Path

import torch

from shards.build import build
from shards.building.options import BuildOptions
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import Experiment
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE

REPO = Path(__file__).resolve().parents[2]


def restless(config: ModelConfig, width: int, max_height: int, noise: float) -> VAE:
    """A model with noise of this size on all of its weights, the same at every call.

    A fresh one has zeros where it starts to add to its linear path: they hide what feeds them, and
    it decodes nothing but blank pages.
    """
    torch.manual_seed(0)
    model = VAE(config, width, max_height)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def write_run(folder: Path, experiment: Experiment, pages: int, noise: float = 0.0) -> None:
    """Shards of pages of the sample, `folder/shards`, and `folder/run` with a restless model."""
    build([REPO / "shards" / "sample"], folder / "shards", BuildOptions(count=pages, workers=1))
    data = experiment.data
    model = restless(experiment.model, data.width, data.max_height, noise)
    write_final(folder / "run" / "final", model, experiment, {}, {})
