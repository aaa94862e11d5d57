"""Final model of a run: the averaged model with everything that is needed to use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from shards.atomic_files import atomic_folder
from shards.errors import one_line
from shards.format.png import encode_png
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.model_card import CARD, model_card
from vaetrain.artifacts.tensor_files import save_tensors
from vaetrain.config.experiment import Experiment, as_dict, experiment_from
from vaetrain.model.embedding import NAME, EmbeddingSpace
from vaetrain.model.encoder import Encoder
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior, load_prior
from vaetrain.settings import ConfigError

WEIGHTS, CONFIG, PRIOR = "model.safetensors", "config.json", "prior.safetensors"
EMBEDDING = "embedding.safetensors"
OLD_LADDER = "decoder.skips.0.posterior.weight"  # in models of version 0.1 with a ladder


def write_final(
    folder: Path,
    model: VAE,
    experiment: Experiment,
    results: dict[str, Any],
    pictures: dict[str, np.ndarray],
    prior: Prior | None = None,
) -> None:
    """Write a run's `final/` atomically, in the Hugging Face Hub's layout of a model.

    Args:
        model: with the `space` of its embedding, if one was fitted.
        results: metrics and data of the run, as `RunDir.results` returns them.
        pictures: grey pictures, uint8 (H, W), by name; each becomes a PNG.
        prior: of the model's latents, if one was fitted.

    Raises CannotWrite if the disk is full or read-only.
    """
    # Replaces the final model of a run that was finished and then trained for longer.
    with atomic_folder(folder) as draft:
        save_tensors(draft / WEIGHTS, model.state_dict())
        config = {
            "model_type": "vaetrain",
            "architectures": [type(model).__name__],
            "experiment": as_dict(experiment),
            "results": results,
        }
        if prior is not None:
            save_tensors(draft / PRIOR, prior.tensors())
            config["prior"] = prior.description()
        if model.space is not None:
            save_tensors(draft / EMBEDDING, model.space.tensors())
            config["embedding"] = NAME
        (draft / CONFIG).write_text(json.dumps(config, indent=2))
        (draft / CARD).write_text(model_card(experiment, results, pictures), encoding="utf-8")
        for name, picture in pictures.items():
            (draft / f"{name}.png").write_bytes(encode_png(picture))


def load_model(folder: str | Path) -> VAE:
    """Load the averaged model of a run, finished or stopped after a checkpoint, for evaluation.

    Args:
        folder: a run directory or its `final/`.

    Raises ConfigError in one line if the folder has no intact model.
    """
    model, _ = load_run(Path(folder))
    return model


def load_run(folder: Path) -> tuple[VAE, Experiment]:
    """Load the averaged model of a run and its experiment; see `load_model`."""
    final = folder if (folder / WEIGHTS).exists() else folder / "final"
    if (final / WEIGHTS).exists():
        try:
            tree = json.loads((final / CONFIG).read_text())["experiment"]
            weights = load_file(final / WEIGHTS)
        except (OSError, *checkpoint.READ_ERRORS) as error:
            raise ConfigError(one_line(f"{final}: damaged ({error})")) from error
    else:
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise ConfigError(f"{folder}: holds no trained model and no checkpoint")
        tree, weights = newest.state.get("experiment"), newest.average
    experiment = experiment_from(tree, str(folder))
    # On `meta`, without memory: damaged settings may describe a model that exceeds the memory.
    with torch.device("meta"):
        model = VAE(experiment.model, experiment.data.width, experiment.data.max_height)
    load_weights(model, weights, folder)
    model.space = load_final_embedding(folder, model)
    return model.eval().requires_grad_(False), experiment


def load_final_embedding(folder: Path, model: VAE) -> EmbeddingSpace | None:
    """Load the space of a finished run's embedding; None if it has none, or one of another version.

    Args:
        folder: a run directory or its `final/`.
        model: of this run.

    Raises ConfigError in one line if it is damaged.
    """
    final = folder if (folder / WEIGHTS).exists() else folder / "final"
    if not (final / EMBEDDING).exists():
        return None
    try:
        if json.loads((final / CONFIG).read_text()).get("embedding") != NAME:
            return None
        space = EmbeddingSpace.from_tensors(load_file(final / EMBEDDING))
        if not space.fits(model.latent_dim, model.structure_sizes):
            raise ValueError("sizes are not those of the model")
        return space
    except (OSError, *checkpoint.READ_ERRORS) as error:
        raise ConfigError(one_line(f"{final / EMBEDDING}: damaged ({error})")) from error


def load_final_prior(folder: Path) -> Prior | None:
    """Load the prior of a finished run; None if it has none.

    Args:
        folder: a run directory or its `final/`.

    Raises ConfigError in one line if the prior is damaged.
    """
    final = folder if (folder / WEIGHTS).exists() else folder / "final"
    if not (final / PRIOR).exists():
        return None
    try:
        description = json.loads((final / CONFIG).read_text())["prior"]
        return load_prior(description, load_file(final / PRIOR))
    except (OSError, RuntimeError, *checkpoint.READ_ERRORS) as error:
        raise ConfigError(one_line(f"{final / PRIOR}: damaged ({error})")) from error


def add_prior(folder: Path, prior: Prior) -> None:
    """Write a prior into a run's `final/`; one that is there is replaced.

    The folder is replaced as a whole, so a kill leaves the old or the new one.

    Raises CannotWrite if the disk is full or read-only.
    """
    config = json.loads((folder / CONFIG).read_text())
    with atomic_folder(folder) as draft:
        for path in folder.iterdir():
            shutil.copy2(path, draft / path.name)
        save_tensors(draft / PRIOR, prior.tensors())
        config["prior"] = prior.description()
        (draft / CONFIG).write_text(json.dumps(config, indent=2))


def load_weights(model: VAE, weights: dict[str, Tensor], folder: Path) -> None:
    """Load fp32 weights into a model; a model on `meta` takes the tensors themselves.

    Raises ConfigError naming the folder if the weights are of another architecture.
    """
    on_meta = model.skip_gate.is_meta
    if OLD_LADDER in weights:
        raise ConfigError(
            f"{folder}: written by an older version, whose ladder (model.skips=hierarchical) had "
            "other layers; train it again"
        )
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()}, assign=on_meta)
    except RuntimeError as error:
        reason = str(error).partition("\n\t")[2].partition("\n")[0][:200]
        raise ConfigError(f"{folder}: the weights do not fit the settings ({reason})") from error


def newest_checkpoint(
    folder: Path, log: Callable[[str], None] = lambda message: None
) -> checkpoint.Checkpoint | None:
    """Load the newest intact checkpoint, or None; damaged ones are logged and skipped."""
    for path in reversed(checkpoint.list_checkpoints(folder)):
        try:
            return checkpoint.load(path)
        except checkpoint.DamagedCheckpoint as error:
            log(f"damaged checkpoint skipped: {error}")
    return None


def load_encoder(folder: str) -> Encoder:
    """Load the page encoder of a run, for the objective's `loss.perceptual_weights`.

    Raises ConfigError as `load_model`.
    """
    return load_model(folder).encoder
