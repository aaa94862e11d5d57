"""The model card is valid for the Hub, and states what the run measured."""

import re

import pytest
from huggingface_hub import ModelCard

from vaetrain.artifacts.model_card import SHOWN, model_card
from vaetrain.config.experiment import load_experiment

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


def test_hub_reads_the_metrics():
    card = ModelCard(model_card(EXPERIMENT, RESULTS, []))
    assert card.data.library_name == "vaetrain"
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics == {"l1": SCORES["l1"], "ssim": SCORES["ssim"]}


def test_card_states_measured_metrics_only():
    text = model_card(EXPERIMENT, RESULTS, [])
    assert "| L1, mean over a page's pixels | 0.01235 | 0.05 |" in text
    assert "after 640 images" in text
    assert "blank page" not in text  # not measured
    assert not any(meaning in text for key, meaning in SHOWN.items() if key not in SCORES)


def test_card_states_samples_beside_unseen_real_pages():
    scores = {"sample_coverage": 0.25, "real_coverage": 0.81, "sample_flat_share": 0.4}
    scores |= {"flat_share": 0.9, "active_units": 100, "active_units_of": 128}
    text = model_card(EXPERIMENT, RESULTS | {"final": SCORES | scores}, [])
    assert "| coverage | 0.25 | 0.81 |" in text
    assert "| share of flat pixels | 0.4 | 0.9 |" in text
    assert "| active units, of 128 | 100 |" in text
    assert "## Samples" not in model_card(EXPERIMENT, RESULTS, [])


def test_card_states_data_and_limits():
    text = model_card(EXPERIMENT, RESULTS, [])
    assert "Shards: mine. 90 training pages, 10 validation pages" in text
    assert "/home/me" not in text
    assert "Rows beyond 48" in text


@pytest.mark.parametrize(
    "name", ["https://evil.example/x", "www.evil.example", "me@evil.example", "HTTP://evil.example"]
)
def test_an_address_in_a_name_does_not_become_a_link(name):
    text = model_card(load_experiment(None, [f"name={name}"]), RESULTS, [])
    assert not re.search(r"www\.evil|://evil|@evil", text, re.IGNORECASE)
    assert "evil.example" in text


def test_card_shows_the_pictures():
    text = model_card(EXPERIMENT, RESULTS, ["reconstructions", "other"])
    assert "![other](other.png)" in text
    assert "ten times the error.](reconstructions.png)" in text


@pytest.mark.parametrize("heading", ["Metrics", "Pictures"])
def test_headings_without_content_are_left_out(heading):
    assert f"## {heading}" in model_card(EXPERIMENT, RESULTS, ["other"])
    text = model_card(EXPERIMENT, {}, [])
    assert f"## {heading}" not in text
    assert "## Limits" in text


def test_quality_is_unknown_without_validation_pages():
    results = {"data": {**RESULTS["data"], "val_pages": 0}}
    text = model_card(EXPERIMENT, results, [])
    assert "the quality of the model is unknown" in text
    assert "## Metrics\n\nNothing was measured: the shards have no validation pages." in text


def test_markup_in_user_text_is_replaced():
    hostile = load_experiment(None, ["name='<script>[x](y)|`#'", "data.shards='s3://b/<img>|x'"])
    text = model_card(hostile, RESULTS, [])
    assert "<" not in text
    assert "[x](y)" not in text
    ModelCard(text)
