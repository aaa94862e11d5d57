"""The detail: its distributions, what they depend on, and the drawing of pages."""

import pytest
import torch
from torch import Tensor

from shards.randomness import random_bits, sample_keys, uniform
from vaetrain.model.masked import keep, rows_at
from vaetrain.prior.canvas import STEPS, VALUES, Canvas, to_values
from vaetrain.prior.detail import COMPARISONS, COPIES, Detail, comparisons, copies

ROWS, WIDTH = 24, 32


@pytest.fixture(scope="module")
def detail() -> Detail:
    """A model with random weights, whose distributions are far from uniform."""
    torch.manual_seed(0)
    made = Detail(16)
    for layer in (made.choose, made.difference):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return made.eval().requires_grad_(False)


def decoded_pages(count: int = 3) -> Tensor:
    """Blurred pages of two to four levels."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 1, ROWS // 8, WIDTH // 8, generator=generator) * 5 / 40
    return torch.nn.functional.interpolate(coarse, (ROWS, WIDTH), mode="bilinear")


def all_pixels(count: int) -> tuple[Tensor, Tensor, Tensor]:
    places = torch.ones(count, ROWS, WIDTH).nonzero()
    return tuple(places.unbind(1))


def keys(count: int = 3) -> Tensor:
    numbers = torch.arange(count)
    return sample_keys(0, 0 * numbers, numbers, "prior")


def distribution(detail: Detail, values: Tensor, decoded: Tensor, pixels, heights: Tensor):
    context, coarse = detail.at(detail.contexts(decoded, heights), *pixels)
    canvas = Canvas.of(values)
    return canvas, canvas.places(*pixels), context, coarse


def test_probabilities_of_all_values_sum_to_one(detail):
    decoded = decoded_pages(1)
    pixels = tuple(torch.tensor([x, y]) for x, y in ((0, 0), (0, 7), (0, 9)))
    arguments = distribution(detail, to_values(decoded), decoded, pixels, torch.tensor([ROWS]))
    logarithms = [
        detail.log_probabilities(*arguments, torch.full((2,), value)) for value in range(VALUES)
    ]
    torch.testing.assert_close(torch.stack(logarithms).exp().sum(0), torch.ones(2))


def test_a_pixel_depends_on_earlier_pixels_and_all_of_the_decoded_page(detail):
    decoded = decoded_pages(1)
    values = to_values(decoded)
    at = tuple(torch.tensor([x]) for x in (0, 10, 12))
    heights = torch.tensor([ROWS])

    def choice(values: Tensor, decoded: Tensor) -> Tensor:
        return detail(*distribution(detail, values, decoded, at, heights))[0]

    before = choice(values, decoded)
    later, earlier = values.clone(), values.clone()
    later[:, 10, 12:] += STEPS
    later[:, 11:] += STEPS
    earlier[:, 9, 12] += STEPS
    below = decoded.clone()
    below[:, :, 14:] += 0.1
    assert torch.equal(before, choice(later, decoded))
    assert (before != choice(earlier, decoded)).any()
    assert (before != choice(values, below)).any()


def test_every_drawn_pixel_is_the_one_that_its_distribution_gives_for_its_number(detail):
    """Drawing along slanted lines, on a growing canvas, is the model of whole pages."""
    decoded, heights = decoded_pages(), torch.tensor([ROWS, ROWS - 5, 3])
    pages = detail.draw(decoded, heights, keys(), temperature=1.0)
    values = to_values(pages)
    torch.testing.assert_close(values[:, None] / 240, pages)
    pixels = all_pixels(3)
    arguments = distribution(detail, values, decoded, pixels, heights)
    choice, copied, new = detail(*arguments)
    page, row, column = pixels
    numbers = [
        uniform(random_bits(keys(), torch.full((3,), stream))[page], row << 32 | column)
        for stream in (-5, -6)
    ]
    chosen, fresh = (
        (logits.softmax(1).cumsum(1) <= number[:, None]).sum(1)
        for logits, number in zip((choice, new), numbers, strict=True)
    )
    options = torch.cat([copied, fresh.clamp(max=VALUES - 1)[:, None]], 1)
    expected = options.gather(1, chosen.clamp(max=COPIES)[:, None])[:, 0].view(3, ROWS, WIDTH)
    inside = torch.arange(ROWS)[:, None] < heights[:, None, None]
    agree = (values == expected)[inside.expand_as(values)].float().mean()
    assert agree > 0.999  # rounding may decide where a number is at the border of two values
    assert (values[~inside.expand_as(values)] == 0).all()
    assert len(values[0].unique()) > 3


def test_a_page_does_not_depend_on_the_others_of_its_batch(detail):
    decoded, heights = decoded_pages(), torch.tensor([ROWS, 16, 8])
    decoded = keep(decoded, rows_at(heights, ROWS))
    together = detail.draw(decoded, heights, keys())
    alone = detail.draw(decoded[1:2, :, :16], heights[1:2], keys()[1:2])
    assert torch.equal(together[1, :, :16], alone[0])
    assert not torch.equal(
        together[1, :, :16], detail.draw(decoded, heights, keys() + 1)[1, :, :16]
    )


def test_at_a_low_temperature_the_likeliest_choice_is_made(detail):
    decoded, heights = decoded_pages(), torch.tensor([ROWS] * 3)
    cold = detail.draw(decoded, heights, keys(), temperature=1e-4)
    values = to_values(cold)
    choice, copied, _ = detail(*distribution(detail, values, decoded, all_pixels(3), heights))
    best = choice.argmax(1)
    is_copy = best < COPIES
    expected = copied.gather(1, best.clamp(max=COPIES - 1)[:, None])[:, 0]
    assert torch.equal(values.flatten()[is_copy], expected[is_copy])


def test_copies_are_what_their_names_say():
    neighbours, decoded = torch.tensor([[6, 9, 12, 0]]), torch.tensor([16])
    found = copies(neighbours, decoded)
    assert found.tolist() == [[6, 9, 12, 0, 12, 15, 0, 3, 6, 12, 6, 6, 18, 24, 12, 12, 18]]
    assert found.shape == (1, COPIES)
    compared = comparisons(neighbours, decoded)
    assert compared.shape == (1, COMPARISONS)
    expected = [0, 0.5, 0, 0, 0, 0, 0, 0, 10 / 12, 7 / 12, 1, 1, 1, 4 / 6]
    torch.testing.assert_close(compared, torch.tensor([expected]))
