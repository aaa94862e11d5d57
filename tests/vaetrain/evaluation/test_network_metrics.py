"""FID and LPIPS of reconstructions, compared with the lpips package page by page."""

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from tests.vaetrain.evaluation.conftest import single_page
from vaetrain.evaluation import network_metrics
from vaetrain.evaluation.fid import Gaussian, frechet_distance
from vaetrain.evaluation.network_metrics import NetworkMetrics
from vaetrain.losses.backbones import BACKBONES
from vaetrain.losses.config import LossConfig
from vaetrain.losses.factory import find_lpips


def write_backbone(folder: Path) -> lpips.LPIPS:
    """Write random weights as AlexNet's file; return the reference LPIPS with them."""
    torch.manual_seed(3)
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = {"features." + n.partition(".")[2]: p for n, p in reference.net.named_parameters()}
    torch.save(weights, folder / BACKBONES["alex"])
    return reference


@torch.no_grad()
def test_metrics_equal_those_of_pages_measured_one_by_one(trained, torch_cache, monkeypatch):
    model, data = trained
    reference = write_backbone(torch_cache)
    networks = NetworkMetrics(model.experiment.loss, data, data.select("all"))
    metrics = networks.metrics(lambda batch: batch.images().flip(3) + 0.1)
    distances, features = [], []
    for number in data.select("all").ids_at(np.arange(19)):
        page = single_page(data, number)
        height = int(page.heights)
        original = page.images()[:, :, :height]
        made = (original.flip(3) + 0.1).clamp(0, 1)
        coloured = [x.expand(-1, 3, -1, -1) for x in (original, made)]
        distances.append(float(reference(*coloured, normalize=True)))
        padding = (0, 0, 0, page.size[0] - height)
        padded = [torch.nn.functional.pad(x, padding) for x in (original, made)]
        features.append([networks.features(x, page.heights)[0] for x in padded])
    assert metrics.keys() == {"lpips_alex", "fid_random"}
    assert metrics["lpips_alex"] == pytest.approx(np.mean(distances), rel=1e-4)
    tables = [torch.stack(x) for x in zip(*features, strict=True)]
    expected = frechet_distance(*map(Gaussian.from_features, tables))
    assert metrics["fid_random"] == pytest.approx(expected, rel=1e-4)
    # More pages are accumulated. Few pages are the hard case: their covariance is singular.
    monkeypatch.setattr(network_metrics, "MAX_GATHERED_PAGES", 18)
    accumulated = networks.metrics(lambda batch: batch.images().flip(3) + 0.1)
    assert accumulated == pytest.approx(metrics, rel=1e-4)
    perfect = networks.metrics(lambda batch: batch.images())
    assert perfect == pytest.approx({"lpips_alex": 0, "fid_random": 0}, abs=1e-9)


def test_lpips_is_omitted_without_weights(trained, torch_cache):
    model, data = trained
    networks = NetworkMetrics(model.experiment.loss, data, data.select("all"))
    assert networks.metrics(lambda batch: batch.images()).keys() == {"fid_random"}


def test_lpips_uses_the_backbone_of_the_loss_or_alexnet(torch_cache):
    write_backbone(torch_cache)
    own = torch_cache / "own.pth"
    own.write_bytes((torch_cache / BACKBONES["alex"]).read_bytes())
    for loss in (
        LossConfig(),
        LossConfig(perceptual_net="features", perceptual_weights="some/run"),
        LossConfig(perceptual_net="alex", perceptual_weights="random"),
        LossConfig(perceptual_net="alex", perceptual_weights=str(own)),
    ):
        name, _ = find_lpips(loss)
        assert name == "lpips_alex"
    assert find_lpips(LossConfig(perceptual_net="vgg")) is None
    assert find_lpips(LossConfig(perceptual_net="alex", perceptual_weights="gone.pth")) is None
    own.write_bytes(b"damaged")
    assert find_lpips(LossConfig(perceptual_net="alex", perceptual_weights=str(own))) is None
