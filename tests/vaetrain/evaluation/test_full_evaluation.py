"""What an evaluation measures beside a validation, against loops in float64 and lpips."""

import math
from itertools import pairwise
from pathlib import Path

import lpips
import numpy as np
import pytest
import pytorch_msssim
import torch

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.models import restless
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.fid import frechet_distance
from vaetrain.evaluation.full_evaluation import NetworkMetrics
from vaetrain.evaluation.path_smoothness import path_smoothness
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses.config import LossConfig
from vaetrain.losses.factory import find_lpips
from vaetrain.losses.perceptual import BACKBONES
from vaetrain.model.vae import VAE

REPO = Path(__file__).resolve().parents[3]
SETTINGS = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[TrainedModel, PageReader]:
    """A model that is not trained, but whose pages differ with the latent, and 19 pages."""
    folder = tmp_path_factory.mktemp("evaluation")
    build([REPO / "shards" / "sample"], folder / "shards", BuildOptions(count=19, workers=1))
    experiment = load_experiment(None, SETTINGS)
    model = restless(experiment.model, 64, 128, 0.05)
    for parameter in model.linear.parameters():
        parameter.detach().add_(10 * torch.randn_like(parameter))
    write_final(folder / "run" / "final", model, experiment, {}, {})
    trained = TrainedModel(folder / "run")
    return trained, trained.open_shards(folder / "shards")


def one_page(data: PageReader, number: int):
    return data.collator.batch(np.array([number]), np.array([0]), training=False)


@torch.no_grad()
def way_by_hand(model: VAE, first, last) -> list[float]:
    """SSIM of consecutive pictures: latents by the angle between them, in Python's floats."""
    ends = [model.encode(page.images(), page.heights)[0][0].double() for page in (first, last)]
    lengths = [math.sqrt(sum(float(x) ** 2 for x in end)) for end in ends]
    cosine = sum(float(a) * float(b) for a, b in zip(*ends, strict=True)) / math.prod(lengths)
    angle = math.acos(cosine)
    pictures = []
    for step in range(8):
        share = step / 7
        length = (1 - share) * lengths[0] + share * lengths[1]
        weights = [math.sin((1 - share) * angle), math.sin(share * angle)]
        z = sum(w * end / n for w, end, n in zip(weights, ends, lengths, strict=True))
        z = (z * length / math.sin(angle)).float()[None]
        heights = [int(page.heights) for page in (first, last)]
        rows = round((1 - share) * heights[0] + share * heights[1])
        size = max(first.size, last.size)
        made = model.decode(z, torch.tensor([rows]), size).clamp(0, 1)
        pictures.append(made[:, :, :rows].double())
    similarities = []
    for one, two in pairwise(pictures):
        rows = min(one.shape[2], two.shape[2])
        both = one[:, :, :rows], two[:, :, :rows]
        similarities.append(float(pytorch_msssim.ssim(*both, data_range=1.0)))
    return similarities


def test_smoothness_is_that_of_a_loop(trained, monkeypatch):
    model, data = trained
    drawn = []
    real = TrainedModel.latents

    def latents(self, batches):
        drawn.append([int(batch.ids) for batch in batches])
        return real(self, batches)

    monkeypatch.setattr(TrainedModel, "latents", latents)
    found = path_smoothness(model, data, data.select("all"))
    assert len(drawn) == 9  # pairs of 19 pages, none twice
    assert len({page for pair in drawn for page in pair}) == 18
    ways = [
        way_by_hand(model.model, *(one_page(data, number) for number in pair)) for pair in drawn
    ]
    means = [sum(way) / len(way) for way in ways]
    deviations = [
        math.sqrt(sum((x - mean) ** 2 for x in way) / len(way))
        for way, mean in zip(ways, means, strict=True)
    ]
    assert found["slerp_ssim_std"] == pytest.approx(np.mean(deviations), rel=1e-3)
    assert found["slerp_ssim_min"] == pytest.approx(np.mean([min(way) for way in ways]), rel=1e-5)
    assert found["slerp_ssim_std"] > 1e-3


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def backbone_in(folder: Path) -> lpips.LPIPS:
    """Random weights as AlexNet's file, and LPIPS with them."""
    torch.manual_seed(3)
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = {"features." + n.partition(".")[2]: p for n, p in theirs.net.named_parameters()}
    torch.save(weights, folder / BACKBONES["alex"])
    return theirs


@torch.no_grad()
def test_networks_judge_each_page_alone(trained, cache):
    model, data = trained
    reference = backbone_in(cache)
    networks = NetworkMetrics(model, data, data.select("all"))
    found = networks.metrics(lambda batch: batch.images().flip(3) + 0.1)
    distances, seen = [], []
    for number in data.select("all").ids_at(np.arange(19)):
        page = one_page(data, number)
        height = int(page.heights)
        original = page.images()[:, :, :height]
        made = (original.flip(3) + 0.1).clamp(0, 1)
        both = [x.expand(-1, 3, -1, -1) for x in (original, made)]
        distances.append(float(reference(*both, normalize=True)))
        below = (0, 0, 0, page.size[0] - height)
        padded = [torch.nn.functional.pad(x, below) for x in (original, made)]
        seen.append([networks.features(x, page.heights)[0] for x in padded])
    assert found.keys() == {"lpips_alex", "fid_random"}
    assert found["lpips_alex"] == pytest.approx(np.mean(distances), rel=1e-4)
    expected = frechet_distance(*(torch.stack(x) for x in zip(*seen, strict=True)))
    assert found["fid_random"] == pytest.approx(expected, rel=1e-4)
    perfect = networks.metrics(lambda batch: batch.images())
    assert perfect == pytest.approx({"lpips_alex": 0, "fid_random": 0}, abs=1e-9)


def test_lpips_is_left_out_without_weights(trained, cache):
    model, data = trained
    networks = NetworkMetrics(model, data, data.select("all"))
    assert networks.metrics(lambda batch: batch.images()).keys() == {"fid_random"}


def test_lpips_is_by_the_backbone_of_the_loss_else_by_alexnets(cache):
    backbone_in(cache)
    own = cache / "own.pth"
    own.write_bytes((cache / BACKBONES["alex"]).read_bytes())
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
