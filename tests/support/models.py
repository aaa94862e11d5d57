"""Models and runs for tests that need no training."""

import itertools
from pathlib import Path

import torch

from shards.build import build
from shards.building.options import BuildOptions
from shards.randomness import sample_keys
from tests.support.paths import SAMPLE
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import Experiment
from vaetrain.model.config import ModelConfig
from vaetrain.model.registry import ATTENTION, BLOCKS, LATENTS, SKIPS
from vaetrain.model.vae import VAE, Noise, draw_noise

ARCHITECTURES = [
    {"blocks": blocks, "attention": attention, "skips": skips, "latent": latent}
    for blocks, attention, skips, latent in itertools.product(BLOCKS, ATTENTION, SKIPS, LATENTS)
] + [
    {"output": "levels", "skips": "hierarchical", "latent": "vector"},
]


def architecture_name(architecture: dict[str, str]) -> str:
    """Return a short name of one of `ARCHITECTURES`."""
    return "-".join(architecture.values())


def settings_of(architecture: dict[str, str]) -> list[str]:
    """Return the settings of an architecture, with the pixel loss that its output needs."""
    settings = [f"model.{key}={value}" for key, value in architecture.items()]
    return settings + (["loss.pixel=nll"] if architecture.get("output") == "levels" else [])


def perturbed_model(config: ModelConfig, width: int, max_height: int, noise: float) -> VAE:
    """Build a model and add noise of this size to all its weights, the same in every call.

    In a new model the layers that add to the linear path are 0. They hide the layers before them,
    and the model decodes blank pages only.
    """
    torch.manual_seed(0)
    model = VAE(config, width, max_height)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def noise_for(
    model: VAE, size: tuple[int, int], ids: list[int], *, gate: float = 1.0, dropout: float = 0.0
) -> Noise:
    """Draw the noise of the samples with these ids in epoch 0."""
    samples = torch.tensor(ids)
    keys = sample_keys(0, torch.zeros_like(samples), samples, "eps")
    return draw_noise(model, keys, size, gate, dropout)


def write_run(folder: Path, experiment: Experiment, pages: int, noise: float = 0.0) -> None:
    """Write shards of sample pages to `folder/shards` and a perturbed model to `folder/run`."""
    build([SAMPLE], folder / "shards", BuildOptions(count=pages, workers=1))
    data = experiment.data
    model = perturbed_model(experiment.model, data.width, data.max_height, noise)
    write_final(folder / "run" / "final", model, experiment, {}, {})
