"""Smoothness of interpolations, compared with a loop in float64 and pytorch-msssim."""

import math
from itertools import pairwise

import numpy as np
import pytest
import pytorch_msssim
import torch

from shards.reading.batch import Batch
from tests.vaetrain.evaluation.conftest import single_page
from vaetrain.evaluation.path_smoothness import path_smoothness
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.vae import VAE


@torch.no_grad()
def reference_path_ssim(model: VAE, first: Batch, last: Batch) -> list[float]:
    """SSIM of consecutive pictures; latents are interpolated in Python floats."""
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


def test_smoothness_equals_a_loop_over_pairs(trained, monkeypatch):
    model, data = trained
    pairs = []
    real = TrainedModel.latents

    def latents(self, batches):
        pairs.append([int(batch.ids) for batch in batches])
        return real(self, batches)

    monkeypatch.setattr(TrainedModel, "latents", latents)
    metrics = path_smoothness(model, data, data.select("all"))
    assert len(pairs) == 9  # disjoint pairs of 19 pages
    assert len({page for pair in pairs for page in pair}) == 18
    paths = [
        reference_path_ssim(model.model, *(single_page(data, number) for number in pair))
        for pair in pairs
    ]
    deviations = [np.std(path) for path in paths]
    minima = [min(path) for path in paths]
    assert metrics["slerp_ssim_std"] == pytest.approx(np.mean(deviations), rel=1e-3)
    assert metrics["slerp_ssim_min"] == pytest.approx(np.mean(minima), rel=1e-5)
    assert metrics["slerp_ssim_std"] > 1e-3


def test_one_page_has_no_path(trained):
    model, data = trained
    assert path_smoothness(model, data, data.select("all").thinned(1)) == {}
