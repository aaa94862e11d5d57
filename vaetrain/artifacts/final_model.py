"""What a run hands over: the averaged model with all that is needed to use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from shards.format.png import encode_png
from shards.storage import atomic_folder
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.model_card import CARD, model_card
from vaetrain.config.experiment import Experiment, as_dict, experiment_from
from vaetrain.model.encoder import Encoder
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_final(
    folder: Path,
    model: VAE,
    experiment: Experiment,
    results: dict[str, Any],
    pictures: dict[str, np.ndarray],
) -> None:
    """Write a run's `final/`, whole or not at all, as the Hugging Face Hub lays out a model.

    Args:
        results: what `RunDir.results` gives back.
        pictures: grey pictures, uint8 (H, W), by name; each becomes a PNG.

    Raises CannotWrite where the disk refuses.
    """
    # There may be one already, of a run that was finished, and then trained on for longer.
    with atomic_folder(folder) as draft:
        checkpoint.save_tensors(draft / WEIGHTS, model.state_dict())
        config = {
            "model_type": "vaetrain",
            "architectures": [type(model).__name__],
            "experiment": as_dict(experiment),
            "results": results,
        }
        (draft / CONFIG).write_text(json.dumps(config, indent=2))
        (draft / CARD).write_text(model_card(experiment, results, pictures), encoding="utf-8")
        for name, picture in pictures.items():
            (draft / f"{name}.png").write_bytes(encode_png(picture))


def load_model(folder: str | Path) -> VAE:
    """The averaged model of a run, finished or stopped after a checkpoint, for evaluation.

    Args:
        folder: a run directory or its `final/`.

    Raises ConfigError in one line when there is no whole model in it.
    """
    model, _ = load_run(Path(folder))
    return model


def load_run(folder: Path) -> tuple[VAE, Experiment]:
    """The averaged model of a run and the experiment it was trained by; see `load_model`."""
    final = folder if (folder / WEIGHTS).exists() else folder / "final"
    if (final / WEIGHTS).exists():
        try:
            tree = json.loads((final / CONFIG).read_text())["experiment"]
            weights = load_file(final / WEIGHTS)
        except (OSError, *checkpoint.UNREADABLE) as error:
            raise ConfigError(f"{final}: is damaged ({error})") from error
    else:
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise ConfigError(f"{folder}: there is no trained model and no checkpoint in it")
        tree, weights = newest.state.get("experiment"), newest.average
    experiment = experiment_from(tree, str(folder))
    # Without memory of its own: settings may ask for more than there is, which the weights belie.
    with torch.device("meta"):
        model = VAE(experiment.model, experiment.data.width, experiment.data.max_height)
    load_weights(model, weights, folder)
    return model.eval().requires_grad_(False), experiment


def load_weights(model: VAE, weights: dict[str, Tensor], folder: Path) -> None:
    """Give a model its weights, fp32; one on `meta` takes the tensors themselves.

    Raises ConfigError naming the folder where they are another model's.
    """
    on_meta = model.skip_gate.is_meta
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()}, assign=on_meta)
    except RuntimeError as error:
        reason = str(error).partition("\n\t")[2].partition("\n")[0][:200]
        raise ConfigError(f"{folder}: its weights do not fit its settings ({reason})") from error


def newest_checkpoint(
    folder: Path, say: Callable[[str], None] = lambda message: None
) -> checkpoint.Checkpoint | None:
    """The newest checkpoint that is whole, or None; damaged ones are told and passed over."""
    for path in reversed(checkpoint.saved(folder)):
        try:
            return checkpoint.load(path)
        except checkpoint.DamagedCheckpoint as error:
            say(f"checkpoint passed over: {error}")
    return None


def load_encoder(folder: str) -> Encoder:
    """Load the page encoder of a run, for the objective's `loss.perceptual_weights`.

    Raises ConfigError as `load_model`.
    """
    return load_model(folder).encoder
