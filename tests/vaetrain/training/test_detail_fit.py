"""The fit of the detail: what it learns, what it counts, and that it is repeatable."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.engines import FakeEngine
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.prior.canvas import STEPS, VALUES, Canvas, to_values
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.detail import Detail
from vaetrain.training import detail_fit
from vaetrain.training.detail_fit import (
    Pages,
    chosen_pixels,
    decoded_pages,
    fit_batches,
    flawed,
    page_loss,
)

ROWS, WIDTH = 32, 32


def boxes(seed: int, count: int = 8) -> Pages:
    """Pages of one box each, whose decoded pages are blurred."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((count, 1, ROWS, WIDTH), 1 / 40)
    for image in images:
        top, left = torch.randint(2, 14, (2,), generator=generator).tolist()
        image[0, top : top + 14, left : left + 14] = 3 / 40
    blurred = torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    decoded = (blurred * 255).round().to(torch.uint8)
    return Pages(to_values(images).to(torch.uint8), decoded, torch.full((count,), ROWS))


def fit(steps: int) -> Detail:
    torch.manual_seed(0)
    detail = Detail(32)
    generator = torch.Generator().manual_seed(0)
    fit_batches(detail, [boxes(0), boxes(1)], steps, 2e-3, FakeEngine(), generator)
    return detail.requires_grad_(False)


def likelihood(detail: Detail, pages: Pages) -> float:
    """Return the exact negative log likelihood, nats per page, without flaws."""
    pixels = torch.ones(pages.values.shape).nonzero().unbind(1)
    values = pages.values.long()
    canvas = Canvas.of(values)
    context, coarse = detail.at(detail.contexts(pages.decoded / 255, pages.heights), *pixels)
    found = detail.log_probabilities(
        canvas, canvas.places(*pixels), context, coarse, values.flatten()
    )
    return -found.sum().item() / len(values)


def test_a_fit_raises_the_likelihood_of_other_pages():
    before = likelihood(fit(1), boxes(7))
    assert before < ROWS * WIDTH * math.log(VALUES)
    assert likelihood(fit(30), boxes(7)) < 0.5 * before


@pytest.mark.slow
def test_a_fit_learns_to_draw_sharp_boxes_of_blurred_ones():
    detail, pages = fit(250), boxes(7)
    keys = torch.arange(len(pages.heights))
    drawn = to_values(detail.draw(pages.decoded / 255, pages.heights, keys))
    blurred = to_values(pages.decoded / 255)

    def shares(values: torch.Tensor) -> tuple[float, float]:
        is_level = (values == STEPS) | (values == 3 * STEPS)
        return is_level.float().mean().item(), (values == pages.values).float().mean().item()

    assert min(shares(drawn)) > 0.85
    assert max(shares(blurred)) < 0.6


def test_a_fit_is_repeatable_on_several_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one, other = fit(3).state_dict(), fit(3).state_dict()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_drawn_pixels_stand_for_all_pixels_inside():
    values = boxes(0).values.long()
    heights = torch.tensor([ROWS] * 4 + [10] * 4)
    generator = torch.Generator().manual_seed(0)
    (page, row, column), weights = chosen_pixels(values, heights, generator)
    assert (row < heights[page]).all()
    torch.testing.assert_close(
        weights.sum().item(), float(heights.sum()) * WIDTH, rtol=1e-4, atol=0
    )
    # Pixels that differ from the one above are drawn far more often than others.
    above = values[page, (row - 1).clamp(min=0), column]
    share = (values[:, 1:] != values[:, :-1]).float().mean()
    assert (values[page, row, column] != above).float().mean() > 3 * share
    assert column.max() == WIDTH - 1


def test_the_estimated_loss_is_that_of_all_pixels():
    detail = fit(20)
    pages = boxes(3)
    generator = torch.Generator().manual_seed(0)
    estimates = [page_loss(detail, pages, generator, torch.device("cpu")).item() for _ in range(8)]
    exact = likelihood(detail, pages)
    # The first of the eight pages has flaws, which cost more.
    mean = sum(estimates) / len(estimates)
    assert exact * 0.9 < mean < exact * 3


def test_flaws_stay_inside_of_the_page_and_of_the_values():
    values = boxes(0, 1).values.long()
    generator = torch.Generator().manual_seed(0)
    heights = torch.tensor([20])
    differences = 0
    for _ in range(50):
        page = flawed(values, heights, generator)
        assert page.min() >= 0
        assert page.max() < VALUES
        assert torch.equal(page[:, 20:], values[:, 20:])
        differences += int((page != values).any())
    assert differences > 30
    assert torch.equal(values, boxes(0, 1).values.long())


def test_pages_are_decoded_from_draws_of_their_posteriors(run_folder):
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    pages = data.select("all")

    def decode(seed: int) -> list[Pages]:
        generator = torch.Generator().manual_seed(seed)
        return decoded_pages(trained.model, data, pages, trained.engine, generator)

    batches, other = decode(0), decode(1)
    assert sum(len(batch.heights) for batch in batches) == len(pages)
    ids = pages.ids_at(np.arange(len(pages)))
    real = data.collator.batch(ids, np.zeros_like(ids), training=False)
    # The same pages, in another order: sums of all grey values are equal.
    drawn = sum(int(batch.values.long().sum()) for batch in batches)
    assert drawn == int(to_values(real.images()).sum())
    assert any((a.decoded != b.decoded).any() for a, b in zip(batches, other, strict=True))
    again = decode(0)
    assert all(torch.equal(a.decoded, b.decoded) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(("megabytes", "expected"), [(1, 16), (1000, 4096)])
def test_the_pages_of_the_fit_are_bounded_by_number_and_memory(monkeypatch, megabytes, expected):
    """A page and its decoded page have a byte for each pixel."""
    asked = []
    monkeypatch.setattr(detail_fit, "MAX_BYTES", megabytes << 20)
    monkeypatch.setattr(detail_fit, "decoded_pages", lambda *_: [boxes(0)])
    pages = SimpleNamespace(thinned=asked.append)
    model = SimpleNamespace(size=(512, 64))
    config = PriorConfig(detail_width=8, detail_steps=1)
    detail_fit.fit_detail(model, None, pages, config, FakeEngine(), 0)
    assert asked == [expected]
