"""Networks of perceptual losses: their weights and their freezing."""

import pytest
import torch

from vaetrain.artifacts.final_model import load_encoder, write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.losses.config import LossConfig
from vaetrain.losses.factory import build_perceptual
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError


def test_features_are_those_of_the_run_in_the_settings_and_frozen(tmp_path):
    experiment = load_experiment(None, ["data.width=96", "data.max_height=144"])
    torch.manual_seed(5)
    model = VAE(experiment.model, 96, 144)
    write_final(tmp_path / "run" / "final", model, experiment, {}, {})
    experiment.loss.perceptual_weights = str(tmp_path / "run")
    experiment.loss.perceptual = 1.0
    (network,) = Objective(experiment, load_encoder).networks
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(dict(network.encoder.named_parameters())[name], parameter)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_random_features_are_the_same_in_every_run():
    torch.manual_seed(1)
    first = build_perceptual(LossConfig()).state_dict()
    torch.manual_seed(2)
    second = build_perceptual(LossConfig()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_refused_where_runs_are_not_loaded():
    with pytest.raises(ConfigError, match=r"loss\.perceptual_weights: some/run: a run's encoder"):
        build_perceptual(LossConfig(perceptual_weights="some/run"))
