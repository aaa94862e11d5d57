"""Pixel metrics, compared with formulas page by page in float64 numpy."""

import numpy as np
import pytest
import torch

from shards.reading.draw import draw
from vaetrain.evaluation.pixel_metrics import (
    GRADIENT_ENERGIES,
    PIXEL_METRICS,
    edge_f1,
    edges,
    gradient_energy,
    pixel_metrics,
    psnr,
)

HEIGHTS = [37, 12, 24, 2, 1]
ROWS, WIDTH = 48, 40


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reconstructions with noise in the padding, pages, heights."""
    generator = torch.Generator().manual_seed(0)
    pages = (torch.rand(5, 1, ROWS, WIDTH, generator=generator) * 12).floor() / 40
    noise = 0.03 * torch.randn(pages.shape, generator=generator)
    return pages + noise, pages, torch.tensor(HEIGHTS)


def without_padding(images: torch.Tensor) -> list[np.ndarray]:
    return [x[0, :h].double().numpy() for x, h in zip(images, HEIGHTS, strict=True)]


def reference_edges(page: np.ndarray) -> set[tuple[int, int]]:
    pixels = set()
    height, width = page.shape
    for y in range(height):
        for x in range(width):
            if 0 < x < width - 1 and abs(page[y, x + 1] - page[y, x - 1]) > 0.45 / 40:
                pixels.add((y, x))
            if 0 < y < height - 1 and abs(page[y + 1, x] - page[y - 1, x]) > 0.45 / 40:
                pixels.add((y, x))
    return pixels


def test_psnr(batch):
    guess, pages, heights = batch
    values = pixel_metrics(guess, pages, heights)["psnr"]
    expected = [
        10 * np.log10(1 / ((g.clip(0, 1) - p) ** 2).mean())
        for g, p in zip(without_padding(guess), without_padding(pages), strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert psnr(pages, pages, heights).tolist() == pytest.approx([100] * 5)


def test_gradient_energy(batch):
    guess, _, heights = batch
    expected = [
        ((np.diff(g, axis=0) ** 2).sum() + (np.diff(g, axis=1) ** 2).sum()) / g.size
        for g in without_padding(guess)
    ]
    np.testing.assert_allclose(gradient_energy(guess, heights), expected, rtol=1e-5)


def test_edge_f1(batch):
    guess, pages, heights = batch
    expected = []
    for g, p in zip(without_padding(guess), without_padding(pages), strict=True):
        predicted, actual = reference_edges(g), reference_edges(p)
        hits = len(predicted & actual)
        precision, recall = hits / len(predicted), hits / len(actual)
        expected.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(edge_f1(guess, pages, heights), expected, rtol=1e-6)
    assert 0.3 < min(expected) < max(expected) < 1


def test_edges_are_the_borders_of_boxes():
    """For boxes at any offset within a pixel."""
    heights = torch.tensor([30])
    bands = {0.0: [7, 8], 0.25: [7, 8], 0.5: [7, 8, 9], 0.9: [8, 9]}
    for offset, columns in bands.items():
        corners = [[0, 0, 40, 30], [8 + offset, 6 + offset, 30 + offset, 20 + offset]]
        page = draw(torch.tensor(corners), torch.zeros(2).long(), heights, (48, 40))
        is_edge = edges(page, heights)[0, 0]
        # The page's own box ends at the page's border, where pixels have no neighbours: no edge.
        rows, middle = is_edge.any(dim=1).nonzero().flatten(), is_edge[13].nonzero().flatten()
        assert middle.tolist() == [*columns, *(column + 22 for column in columns)]
        top = [column - 2 for column in columns]
        assert rows.tolist() == list(range(top[0], top[-1] + 15))


def test_an_edge_moved_by_one_pixel_counts_half():
    heights = torch.tensor([30])

    def page(moved: float) -> torch.Tensor:
        corners = torch.tensor([[10.0 + moved, 0, 30 + moved, 30]])
        return draw(corners, torch.zeros(1).long(), heights, (32, 40))

    scores = [edge_f1(page(moved), page(0), heights).item() for moved in (0, 1, 2)]
    assert scores == pytest.approx([1, 0.5, 0])


def test_edge_f1_of_pages_without_edges():
    blank = torch.zeros(1, 1, 16, 16)
    heights = torch.tensor([16])
    assert edge_f1(blank, blank, heights).item() == 1
    noisy = blank.clone()
    noisy[0, 0, 8, 8] = 1
    assert edge_f1(noisy, blank, heights).item() == 0


def test_padding_does_not_change_any_metric(batch):
    guess, pages, heights = batch
    below = torch.arange(ROWS)[None, None, :, None] >= heights[:, None, None, None]
    dirty = guess + 5 * below
    clean_values, dirty_values = (pixel_metrics(x, pages, heights) for x in (guess, dirty))
    for name, values in clean_values.items():
        torch.testing.assert_close(dirty_values[name], values, msg=name)


def test_registered_metrics_are_measured_under_their_names(batch):
    values = pixel_metrics(*batch)
    assert list(values) == [*PIXEL_METRICS, *GRADIENT_ENERGIES]
    assert list(PIXEL_METRICS) == ["l1", "mse", "psnr", "ssim", "ms_ssim", "edge_f1"]
    assert all(value.shape == (5,) for value in values.values())
