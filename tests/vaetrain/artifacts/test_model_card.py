"""What is handed over is laid out as the Hub wants it, and its card says what the run knows."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from vaetrain import load_model
from vaetrain.artifacts.final_model import write_final
from vaetrain.artifacts.model_card import SHOWN, model_card
from vaetrain.config.experiment import load_experiment
from vaetrain.model.vae import VAE

EXPERIMENT = load_experiment(
    None, ["data.width=32", "data.max_height=48", "model.latent_dim=3", "data.shards=/home/me/mine"]
)
SCORES = {"images": 640, "l1": 0.0123456, "ssim": 0.9, "epoch": 3.0}
RESULTS = {
    "final": SCORES,
    "best": {},
    "baselines": {"mean page": {"l1": 0.05, "ssim": 0.7}, "blank page": {}},
    "data": {"train_pages": 90, "val_pages": 10, "fingerprint": "ab" * 32},
}


@pytest.fixture
def final(tmp_path):
    torch.manual_seed(0)
    model = VAE(EXPERIMENT.model, 32, 48)
    pictures = {"reconstructions": np.zeros((4, 4), np.uint8), "other": np.ones((2, 2), np.uint8)}
    write_final(tmp_path / "final", model, EXPERIMENT, RESULTS, pictures)
    return tmp_path / "final", model


def test_a_hub_reads_it(final):
    folder, model = final
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "vaetrain"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"l1": SCORES["l1"], "ssim": SCORES["ssim"]}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["VAE"]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
        assert set(weights.keys()) == set(model.state_dict())


def test_the_model_of_any_folder_is_the_one_that_was_written(final, tmp_path):
    folder, model = final
    loaded = load_model(folder.rename(tmp_path / "from the hub"))
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = torch.zeros(1, 1, 48, 32)
    mu, _ = loaded.encode(images, torch.tensor([40]))
    assert mu.shape == (1, 3)


def test_it_says_what_was_measured_and_where_pictures_lie(final):
    text = (final[0] / "README.md").read_text()
    assert "| L1, mean over a page's pixels | 0.01235 | 0.05 |" in text
    assert "90 pages were trained on, 10 others" in text
    assert "after 640 images" in text
    assert "blank page" not in text  # it was not measured
    assert not any(meaning in text for key, meaning in SHOWN.items() if key not in SCORES)
    for name in ("reconstructions", "other"):
        assert f"({name}.png)" in text
    assert "Rows beyond 48" in text
    assert "/home/me" not in text


def test_without_numbers_it_has_no_headings_for_them():
    text = model_card(EXPERIMENT, {}, [])
    assert "## Metrics" not in text
    assert "## Pictures" not in text
    assert "## Limits" in text
    nothing = {"data": {**RESULTS["data"], "val_pages": 0}}
    assert "nothing is known of how good it is" in model_card(EXPERIMENT, nothing, [])


def test_names_that_come_from_users_are_no_markup():
    hostile = load_experiment(None, ["name='<script>[x](y)|`#'", "data.shards='s3://b/<img>|x'"])
    text = model_card(hostile, RESULTS, [])
    assert "<" not in text
    assert "[x](y)" not in text
    ModelCard(text)
