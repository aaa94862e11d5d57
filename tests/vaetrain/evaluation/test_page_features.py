"""Features of pages: known values, and no influence of the padding."""

import pytest
import torch
import torch.nn.functional as F

from shards.reading.draw import draw
from vaetrain.evaluation.page_features import (
    CELLS,
    FEATURES,
    FLAT_SHARE,
    page_features,
    raster,
    raster_distances,
    raster_size,
    rounded,
)

ROWS, WIDTH = 48, 64
HEIGHTS = torch.tensor([ROWS])


def page() -> torch.Tensor:
    """Draw one box on the left half of a page, as deep as the page below it."""
    boxes = torch.tensor([[0.0, 0, WIDTH, ROWS], [0.0, 0, WIDTH / 2, ROWS]])
    return rounded(draw(boxes, torch.zeros(2, dtype=torch.long), HEIGHTS, (ROWS, WIDTH)))


def test_known_values():
    height, grey, flat, *rest = page_features(page(), HEIGHTS)[0].tolist()
    assert height == ROWS / WIDTH
    assert grey == pytest.approx((13 + 6) / 2 / 255)  # levels 2 and 1 of 40, in 8 bits
    assert flat == pytest.approx((WIDTH - 4) / (WIDTH - 2))  # not the two pixels at the edge
    assert FLAT_SHARE == 2
    across, down = torch.tensor(rest[:14]).view(2, 7)
    assert down.abs().sum() == 0
    # One of the 63 steps of a row is 7 levels of grey, so it exceeds the first four thresholds.
    expected = torch.tensor([7 / 255, 1, 1, 1, 1, 0, 0]) / 63
    torch.testing.assert_close(across, expected, rtol=1e-5, atol=1e-8)
    cells = torch.tensor(rest[14:]).view(2, *CELLS)
    torch.testing.assert_close(cells[0, :, :4], torch.full((CELLS[0], 4), 13 / 255))
    torch.testing.assert_close(cells[0, :, 4:], torch.full((CELLS[0], 4), 6 / 255))
    assert (cells[1] > 0).sum() == CELLS[0]


def test_features_do_not_depend_on_padding_or_on_the_other_pages():
    images = torch.rand(1, 1, ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    images = rounded(images)
    alone = page_features(images, HEIGHTS)
    padded = F.pad(images, (0, 0, 0, 80))
    both = page_features(torch.cat([torch.ones_like(padded), padded]), torch.tensor([128, ROWS]))
    assert alone.shape == (1, FEATURES)
    assert torch.equal(both[1:], alone)


def test_blur_lowers_the_share_of_flat_pixels_and_changes_the_steps():
    sharp = page()
    blurred = rounded(F.avg_pool2d(F.pad(sharp, (1, 1, 0, 0), mode="replicate"), (1, 3), 1))
    features = page_features(torch.cat([sharp, blurred]), HEIGHTS.expand(2))
    assert features[1, FLAT_SHARE] < features[0, FLAT_SHARE]
    assert (features[0, 4:10] != features[1, 4:10]).any()


@pytest.mark.parametrize("width", [48, 112, 128])
def test_raster_distances_are_mean_differences_over_the_taller_page(width):
    size = raster_size(160, width)
    first = torch.full((1, 1, 80, width), 0.5)
    second = torch.full((1, 1, 160, width), 0.25)
    rasters = raster(first, size), raster(second, size)
    heights = torch.tensor([80]), torch.tensor([160])
    distance = raster_distances(*rasters, *heights, width)
    assert distance.item() == pytest.approx(0.25, abs=0.01)
    assert raster_distances(rasters[0], rasters[0], heights[0], heights[0], width).item() == 0


def test_raster_does_not_depend_on_the_padding():
    images = torch.rand(1, 1, 64, 112)
    images[:, :, 50:] = 0
    size = raster_size(160, 112)
    assert torch.equal(raster(images, size), raster(F.pad(images, (0, 0, 0, 32)), size))


def test_pages_of_a_diverged_model_are_measured_as_blank():
    assert rounded(torch.tensor([torch.nan, 2.0, -1.0])).tolist() == [0, 1, 0]
