"""The blend gap is 0 for a decoder that cross-fades and large for one that moves boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.engines import FakeEngine
from tests.support.models import perturbed_model
from tests.support.paths import SAMPLE
from tests.support.ranks import ThreadRanks, run_ranks
from vaetrain.config.experiment import load_experiment
from vaetrain.data.config import DataConfig
from vaetrain.data.loading import PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation.blend_gap import STEPS, interpolation_blend_gap, middle_steps
from vaetrain.evaluation.page_measurer import PageMeasurer
from vaetrain.inference import interpolation
from vaetrain.model.vae import Posterior

PAGES = 16


class KnownDecoder:
    """A model whose latent is (position, 1), and whose decoder draws a known page.

    `moving`: a bar at the position; otherwise a blend of two bars, weighted by the position.
    """

    ladder_levels = 0

    def __init__(self, *, moving: bool) -> None:
        self.moving = moving

    def posterior(self, images: Tensor, heights: Tensor) -> Posterior:
        position = torch.arange(len(images)) % 2
        mu = torch.stack([position.float(), torch.ones(len(images))], 1)
        return Posterior(mu, torch.zeros_like(mu), [])

    def decode_padded(
        self, z: Tensor, heights: Tensor, size: tuple[int, int], ladder: tuple[Tensor, ...]
    ) -> Tensor:
        column = torch.arange(size[1])
        if self.moving:
            start = 40 * z[:, :1]
            bars = ((column >= start) & (column < start + 8)).float()
        else:
            share = z[:, :1]
            bars = (1 - share) * (column < 8) + share * (column >= 40) * (column < 48)
        return bars[:, None, None, :].expand(-1, 1, size[0], -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    build([SAMPLE], folder, BuildOptions(count=PAGES, workers=1))
    return folder


def pages(folder, engine: Engine) -> PageReader:
    return PageReader(folder, DataConfig(width=64, max_height=128, workers=0), engine, 16)


def gap(folder, model: KnownDecoder) -> float:
    data = pages(folder, FakeEngine())
    return interpolation_blend_gap(model, data, data.select("all"), data.engine)[
        "interpolation_blend_gap"
    ]


@pytest.fixture(autouse=True)
def straight_paths(monkeypatch):
    """Interpolate on the straight line, on which the known decoder's positions are even."""
    monkeypatch.setattr(
        interpolation,
        "slerp",
        lambda start, end, steps: torch.lerp(start, end, torch.linspace(0, 1, steps)[:, None]),
    )


def test_a_cross_fade_has_no_gap(folder):
    assert gap(folder, KnownDecoder(moving=False)) == pytest.approx(0, abs=1e-6)


def test_moving_boxes_have_a_gap(folder):
    """Step and blend share no pixel: each has the same area, half of the difference of the ends."""
    assert gap(folder, KnownDecoder(moving=True)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_values_are_equal_to_the_bit_for_any_number_of_ranks(folder, latent):
    settings = ["data.width=64", "data.max_height=128", "model.latent_dim=8"]
    settings.append(f"model.latent={latent}")
    model = perturbed_model(load_experiment(None, settings).model, 64, 128, 0.05).eval()

    def run(rank: ThreadRanks):
        data = pages(folder, rank)
        found = interpolation_blend_gap(model, data, data.select("all"), rank)
        measurer = PageMeasurer(rank, 128, 64)
        steps = middle_steps(model, None, data, data.select("all"), measurer, 15)
        return found, steps

    (one, steps), ((two, same), (nothing, none)) = run_ranks(1, run)[0], run_ranks(2, run)
    assert (nothing, none) == ({}, None)
    assert two == one
    assert torch.equal(steps.features, same.features)
    assert steps.groups.tolist() == [f"/pair {n // STEPS}" for n in range(15)]
