"""Saved weights fit the model or are refused, and are loaded as they are."""

from types import SimpleNamespace

import pytest
import torch

from vaetrain.artifacts.tensor_files import TensorFiles, save_tensors
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import ENGINES, Launch
from vaetrain.engines.start import start_engine
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError
from vaetrain.training.saved_weights import build_model, check_weights, distribute_model


def make(latent_dim: int = 4) -> VAE:
    return VAE(ModelConfig(latent_dim=latent_dim, start="random"), 32, 32)


def skeleton(latent_dim: int = 4) -> VAE:
    with torch.device("meta"):
        return make(latent_dim)


@pytest.fixture
def saved(tmp_path):
    """Return the tensors of a model, and a reader of its file."""
    torch.manual_seed(1)
    model = make()
    model.skip_gate.fill_(0.5)
    save_tensors(tmp_path / "weights", model.state_dict())
    return model.state_dict(), TensorFiles([tmp_path / "weights"], {})


def test_an_engine_without_slices_loads_the_same_bits(saved):
    tensors, reader = saved
    engine = start_engine(Launch("single", 1, "no"), "no")
    model = build_model(make, engine, reader)
    check_weights(skeleton(), reader, "folder")
    optimizer = build_optimizer(model, OptimizerConfig())
    settings = {"micro_batch": 1, "accumulation": 1, "clip_norm": 1.0}
    distribute_model(model, optimizer, engine, reader, **settings)
    for name, tensor in engine.weights():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_slices_are_loaded_into_the_divided_model(saved, has_checkpoint):
    """Real ranks, in `test_engines_without_trainer`, test that the slices are the right ones."""
    calls = []
    fake = SimpleNamespace(
        spec=ENGINES["fsdp2"],
        device=torch.device("cpu"),
        prepare=lambda model, optimizer, micro_batch: calls.append(("prepare", micro_batch)),
        load_weights=lambda weights: calls.append(("load", weights)),
    )
    reader = saved[1] if has_checkpoint else None
    model = build_model(make, fake, reader)
    distribute_model(model, build_optimizer(model, OptimizerConfig()), fake, reader, micro_batch=2)
    assert calls == [("prepare", 2), ("load", reader)][: 1 + has_checkpoint]


@pytest.mark.parametrize(
    ("engine", "on_meta"),
    [("ddp", False), ("zero3", False), ("fsdp2", True), ("fsdp2_hybrid", True)],
)
def test_only_a_model_whose_slices_are_loaded_has_no_memory(saved, engine, on_meta):
    fake = SimpleNamespace(spec=ENGINES[engine], device=torch.device("cpu"))
    assert build_model(make, fake, saved[1]).skip_gate.is_meta == on_meta
    assert not build_model(make, fake, None).skip_gate.is_meta


def test_weights_of_another_model_are_refused_in_one_line(saved, tmp_path):
    with pytest.raises(ConfigError, match="the weights do not fit the settings") as refusal:
        check_weights(skeleton(5), saved[1], tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(refusal.value)
