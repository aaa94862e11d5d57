"""Full evaluation of a model and its baselines."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tests.vaetrain.evaluation.conftest import single_page
from vaetrain.evaluation import full_evaluation, network_metrics
from vaetrain.evaluation.full_evaluation import (
    evaluate_model,
    prior_metrics,
    refined_metrics,
)
from vaetrain.evaluation.network_metrics import NetworkMetrics
from vaetrain.evaluation.pixel_metrics import PIXEL_METRICS, pixel_metrics

LABEL_METRICS = {"knn_label_accuracy", "precision_at_10", "nmi", "ari", "ami"}


@pytest.fixture(scope="module")
def metrics(trained) -> dict:
    model, data = trained
    return evaluate_model(model, data, "all", training=data)


def test_metrics_of_vectors_are_of_the_embedding_and_of_mu(metrics):
    of_vectors = LABEL_METRICS | {"box_iou_at_10"}
    assert of_vectors | {f"{name}_mu" for name in of_vectors} <= set(metrics)
    assert metrics["box_iou_at_10"] != metrics["box_iou_at_10_mu"]
    for name in ("precision_at_10", "box_iou_at_10"):
        assert metrics[f"{name}_search"] == metrics[name]


def test_every_baseline_has_the_metrics_of_its_kind(metrics):
    baselines = metrics["baselines"]
    assert list(baselines) == ["blank page", "mean page", "pca", "pixels"]
    for name in ("blank page", "mean page", "pca"):
        assert set(PIXEL_METRICS) < set(baselines[name])
    for name in ("pca", "pixels"):
        assert set(baselines[name]) > LABEL_METRICS
    assert not set(PIXEL_METRICS) & set(baselines["pixels"])


def test_baselines_reconstruct_the_better_the_more_they_are_fitted(metrics, trained):
    _, data = trained
    blank, mean, pca = (metrics["baselines"][name] for name in ("blank page", "mean page", "pca"))
    pages = [single_page(data, number) for number in data.select("all").ids_at(np.arange(19))]
    brightness = [float(page.images()[:, :, : int(page.heights)].mean()) for page in pages]
    assert blank["l1"] == pytest.approx(np.mean(brightness), rel=1e-5)
    assert pca["mse"] < mean["mse"] < blank["mse"]


def test_without_training_shards_there_are_no_baselines(trained):
    model, data = trained
    assert "baselines" not in evaluate_model(model, data, "val")


def test_refined_vectors_are_measured_on_request(metrics, trained):
    model, data = trained
    pages = data.select("all").spaced(3)
    found = refined_metrics(model, data.pages(pages), 2)
    (batch,) = data.pages(pages)
    made, kl = model.reconstruct_refined(batch, 2, skips=False)
    values = pixel_metrics(made, batch.images(), batch.heights)
    assert found["refined_kl"] == pytest.approx(float(kl.mean()))
    for name in ("l1", "edge_f1"):
        assert found[f"refined_{name}"] == pytest.approx(float(values[name].mean()))
    assert set(PIXEL_METRICS) <= {name.removeprefix("refined_") for name in found}
    assert not set(found) & set(metrics)


def test_more_pages_than_are_compared_change_only_what_compares_pages(
    metrics, trained, monkeypatch
):
    model, data = trained
    monkeypatch.setattr(full_evaluation, "MAX_EVALUATED_PAGES", 9)
    monkeypatch.setattr(network_metrics, "MAX_GATHERED_PAGES", 9)
    subset = evaluate_model(model, data, "all", training=data)
    of_all = {"pages", *PIXEL_METRICS, "active_units", "aggregate_kl", "effective_rank"}
    of_all |= {"latent_correlation", "latent_std_mean", "kl_per_dim_max", "fid_random"}
    assert {name: subset[name] for name in of_all} == pytest.approx(
        {name: metrics[name] for name in of_all}, rel=1e-4
    )
    assert subset["latent_std"] == pytest.approx(metrics["latent_std"], rel=1e-6)
    assert subset["mutual_information"] <= np.log(9) + 1e-9
    assert subset["baselines"]["pca"]["l1"] == pytest.approx(metrics["baselines"]["pca"]["l1"])


def test_metrics_of_pca_and_pixels_stand_beside_those_of_the_model(metrics):
    baselines = metrics["baselines"]
    for name in ("pca", "pixels"):
        flat = {key: metrics[f"{name}_{key}"] for key in baselines[name]}
        assert flat == baselines[name]
    assert {"pca_l1", "pca_precision_at_10", "pixels_box_iou_at_10"} <= set(metrics)


def test_samples_interpolations_and_reconstructions_are_compared_with_training_pages(
    trained, shards, monkeypatch
):
    monkeypatch.setattr(full_evaluation, "MAX_SAMPLES", 20)
    model, _ = trained
    data = model.open_shards(shards)
    pages = data.select("all")
    networks = NetworkMetrics(model.experiment.loss, data, pages)
    found = prior_metrics(model, data, pages, data, networks)
    compared = {"two_sample_accuracy", "precision", "recall", "density", "coverage", "flat_share"}
    compared |= {"nearest_train", "fid_random", "kid_random", "boxes_distance", "depth_distance"}
    compared |= {"box_size_distance", "height_distance"}
    expected = {f"sample_{name}" for name in compared} | {"flat_share"}
    expected |= {"interpolation_blend_gap"}
    expected |= {f"reconstruction_{name}" for name in ("two_sample_accuracy", "flat_share")}
    # There are too few validation pages for `real_*`, and for steps between them.
    assert set(found) == expected
    assert found["sample_two_sample_accuracy"] > 0.9  # random weights


@pytest.mark.parametrize("detail", [None, "detail"])
def test_fewer_samples_are_compared_if_their_detail_is_drawn(trained, shards, monkeypatch, detail):
    asked = []

    def compare(*_, samples, references):
        asked.append(samples)
        return SimpleNamespace(count=0, too_few="stopped here")

    monkeypatch.setattr(full_evaluation, "SampleMetrics", compare)
    model, _ = trained
    monkeypatch.setattr(model, "prior", SimpleNamespace(detail=detail))
    data = model.open_shards(shards)
    pages = data.select("all").spaced(4)
    prior_metrics(model, data, pages, data, NetworkMetrics(model.experiment.loss, data, pages))
    expected = full_evaluation.MAX_SAMPLES if detail is None else full_evaluation.MAX_DRAWN_SAMPLES
    assert asked == [expected]
    assert full_evaluation.MAX_DRAWN_SAMPLES < full_evaluation.MAX_SAMPLES


def test_training_pages_are_those_of_the_run_if_it_is_still_there(trained, shards, tmp_path):
    model, _ = trained
    for folder, expected in ((shards, True), (tmp_path, False), ("s3://bucket/pages", False)):
        data_config = dataclasses.replace(model.experiment.data, shards=str(folder))
        model.experiment.data, before = data_config, model.experiment.data
        found = model.training_shards()
        model.experiment.data = before
        assert (found is not None) == expected
