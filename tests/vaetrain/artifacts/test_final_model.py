"""The final model: its files, and loading it back from a run or its folder."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from shards.format.png import decode_png
from vaetrain import load_model
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.artifacts.final_model import load_encoder, newest_checkpoint, write_final
from vaetrain.config.experiment import as_dict, load_experiment
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError

EXPERIMENT = load_experiment(None, ["data.width=32", "data.max_height=48", "model.latent_dim=3"])
PICTURES = {"reconstructions": np.zeros((4, 4), np.uint8), "other": np.ones((2, 2), np.uint8)}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(EXPERIMENT.model, 32, 48)


@pytest.fixture
def final(tmp_path, model):
    """The final model of a run, in its run directory."""
    write_final(tmp_path / "run" / "final", model, EXPERIMENT, {"best": {}}, PICTURES)
    return tmp_path / "run" / "final"


def save_checkpoint(folder, images: int, average: dict[str, torch.Tensor]):
    state = {"experiment": as_dict(EXPERIMENT)}
    saved = Checkpoint(images, {}, average, {}, {}, state)
    return checkpoint.save(folder / "checkpoints", saved, keep=9)


def has_weights_of(loaded: VAE, model: VAE) -> bool:
    expected = model.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_files_follow_the_layout_of_the_hub(final, model):
    config = json.loads((final / "config.json").read_text())
    assert config["architectures"] == ["VAE"]
    assert config["results"] == {"best": {}}
    with safe_open(final / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
        assert set(weights.keys()) == set(model.state_dict())
    for name, picture in PICTURES.items():
        assert (decode_png((final / f"{name}.png").read_bytes()).squeeze() == picture).all()
        assert f"({name}.png)" in (final / "README.md").read_text()


def test_model_is_loaded_from_any_folder_as_it_was_written(final, model, tmp_path):
    loaded = load_model(final.rename(tmp_path / "from the hub"))
    assert not loaded.training
    assert has_weights_of(loaded, model)
    mu, _ = loaded.encode(torch.zeros(1, 1, 48, 32), torch.tensor([40]))
    assert mu.shape == (1, 3)


def test_run_directory_gives_its_final_model(final, model):
    assert has_weights_of(load_model(final.parent), model)
    assert load_encoder(final.parent).state_dict().keys() == model.encoder.state_dict().keys()


def test_stopped_run_gives_the_averaged_model_of_its_newest_checkpoint(tmp_path, model):
    average = {name: value + 1 for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path, 16, model.state_dict())
    save_checkpoint(tmp_path, 32, average)
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in average.items())


def test_damaged_checkpoints_are_logged_and_skipped(tmp_path, model):
    save_checkpoint(tmp_path, 16, model.state_dict())
    damaged = save_checkpoint(tmp_path, 32, model.state_dict())
    (damaged / "state.json").unlink()
    messages: list[str] = []
    assert newest_checkpoint(tmp_path / "checkpoints", messages.append).images == 16
    (message,) = messages
    assert message == f"damaged checkpoint skipped: {damaged / 'state.json'}: is missing"
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no trained model and no checkpoint"):
        load_model(tmp_path)


def test_damaged_config_is_refused_in_one_line(final):
    (final / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="final: damaged") as refusal:
        load_model(final)
    assert "\n" not in str(refusal.value)


def test_weights_of_another_architecture_are_refused(final):
    save_file({"skip_gate": torch.zeros(1)}, final / "model.safetensors")
    with pytest.raises(ConfigError, match="the weights do not fit the settings") as refusal:
        load_model(final)
    assert "\n" not in str(refusal.value)


def test_a_ladder_of_an_older_version_is_refused(final):
    weights = {"decoder.skips.0.posterior.weight": torch.zeros(8, 128, 1, 1)}
    save_file(weights, final / "model.safetensors")
    with pytest.raises(ConfigError, match=r"older version, whose ladder .* train it again"):
        load_model(final)
