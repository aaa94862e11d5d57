"""Distance in the features of a page encoder."""

import pytest
import torch

from tests.vaetrain.losses.images import random_pages
from vaetrain.losses.perceptual import FeatureDistance
from vaetrain.model.config import ModelConfig
from vaetrain.model.encoder import Encoder

WIDTH = 96
HEIGHTS = (96, 97, 130, 144)


@pytest.fixture
def distance() -> FeatureDistance:
    torch.manual_seed(0)
    return FeatureDistance(Encoder(ModelConfig(attention="none")))


def test_a_padded_batch_has_the_distances_of_the_pages_alone(distance):
    a, b = random_pages(HEIGHTS, WIDTH, 1), random_pages(HEIGHTS, WIDTH, 2)
    distances = distance(a, b, torch.tensor(HEIGHTS))
    for number, height in enumerate(HEIGHTS):
        one, rows = slice(number, number + 1), -(-height // 16) * 16
        alone = distance(a[one, :, :rows], b[one, :, :rows], torch.tensor([height]))
        torch.testing.assert_close(distances[one], alone, rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_on_a_blank_page(distance):
    # Features have length 0 there, at which a square root has no finite gradient.
    prediction = torch.zeros(2, 1, 96, WIDTH, requires_grad=True)
    heights = (40, 96)
    distance(prediction, random_pages(heights, WIDTH, 1), torch.tensor(heights)).sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1].any()


def test_equal_pages_have_distance_zero(distance):
    pages = random_pages(HEIGHTS, WIDTH, 1)
    assert (distance(pages, pages.clone(), torch.tensor(HEIGHTS)) == 0).all()
