"""Outputs of the decoder: the median of levels, the start from the coarse page, and gradients."""

import pytest
import torch

from tests.vaetrain.model.pages import build_model, random_pages
from vaetrain.engines.model_options import apply_options
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import rows_at
from vaetrain.model.outputs import (
    MEDIAN_SLOPE,
    LevelsOutput,
    build_output,
    flattened,
    grouped_median,
    median_level,
)
from vaetrain.model.registry import OUTPUTS
from vaetrain.model.vae import draw_noise

LEVELS = 8
STEP = 1 / 40  # grey step of one level


def levels_output(decode: str = "median") -> LevelsOutput:
    return LevelsOutput(ModelConfig(output="levels", levels=LEVELS, decode=decode))


def random_logits(rows: int = 6, width: int = 5, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(2, LEVELS, rows, width, generator=generator)


def of_one_pixel(*probabilities: float) -> float:
    """Return the median of a distribution over as many levels."""
    return median_level(torch.tensor(probabilities).view(1, -1, 1, 1)).item()


def test_the_median_is_where_half_the_probability_lies_below():
    probabilities = random_logits().double().softmax(dim=1)
    median = grouped_median(probabilities)
    # Each level's probability is spread over an interval of length 1 around it.
    lower = torch.arange(LEVELS)[:, None, None] - 0.5
    below = (probabilities * (median - lower).clamp(0, 1)).sum(dim=1, keepdim=True)
    inside = (median > 0) & (median < LEVELS - 1)
    assert inside.float().mean() > 0.8
    # A floor under the probabilities moves the median a little.
    torch.testing.assert_close(
        below[inside], torch.full_like(below[inside], 0.5), atol=5e-3, rtol=0
    )


def test_depths_near_a_level_are_the_level_and_the_result_is_continuous():
    depth = torch.linspace(0, 3, 3001, dtype=torch.float64)
    result = flattened(depth)
    near = (depth - depth.round()).abs() <= 0.5 - 0.5 / MEDIAN_SLOPE
    assert torch.equal(result[near], depth.round()[near])
    assert float(near.float().mean()) > 0.7
    steps = result.diff()
    assert float(steps.min()) >= 0
    assert float(steps.max()) < 1.001 * MEDIAN_SLOPE * 0.001
    half = torch.tensor([0.5, 1.5, 2.5])
    torch.testing.assert_close(flattened(half), half)
    torch.testing.assert_close(flattened(half + 0.05), half + 0.05 * MEDIAN_SLOPE)


def test_the_median_of_one_or_two_levels():
    assert of_one_pixel(0, 0, 1, 0, 0) == pytest.approx(2)
    assert of_one_pixel(0, 0, 0.5, 0.5, 0, 0) == pytest.approx(2.5)
    assert of_one_pixel(0.02, 0.01, 0.95, 0.02) == pytest.approx(2, abs=0.02)  # flat
    assert of_one_pixel(1, 0, 0, 0) == pytest.approx(0, abs=0.01)
    assert of_one_pixel(0, 0, 0, 1) == pytest.approx(3, abs=0.01)


def test_the_median_of_two_levels_far_apart_is_not_decided_by_rounding():
    values = [
        of_one_pixel(0.5 - d, 0, 0, 0, 0, 0.5 + d) for d in (-1e-7, 0, 1e-7)
    ]  # float32 rounds by 6e-8
    assert max(values) - min(values) < 1e-2
    assert of_one_pixel(0.45, 0, 0, 0, 0, 0.55) > 4
    assert of_one_pixel(0.55, 0, 0, 0, 0, 0.45) < 1


@pytest.mark.parametrize("decode", ["median", "mean"])
def test_without_added_values_the_page_is_the_coarse_page(decode):
    output = levels_output(decode)
    depth = torch.linspace(1, LEVELS - 2, 41)
    base = (STEP * depth).view(1, 1, 1, -1)
    logits = output(base, torch.zeros(1, LEVELS, 1, 41))
    page = output.page(logits, rows_at(torch.tensor([1]), 1))
    # The median is flat around each level.
    assert (page - base).abs().max() < (0.25 if decode == "mean" else 0.5) * STEP
    whole = (depth % 1) == 0
    assert int(whole.sum()) >= 2
    assert (page - base)[..., whole].abs().max() < 0.05 * STEP


def test_deeper_pages_have_the_last_level():
    output = levels_output()
    base = torch.tensor([[[[0.9, 0.0]]]])
    page = output.page(output(base, torch.zeros(1, LEVELS, 1, 2)), rows_at(torch.tensor([1]), 1))
    torch.testing.assert_close(page, torch.tensor([[[[7.0, 0.0]]]]) * STEP, atol=0.2 * STEP, rtol=0)


def test_the_median_has_the_gradient_of_the_mean():
    rows = rows_at(torch.tensor([6, 4]), 6)
    upstream = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    gradients, pages = [], []
    for decode in ("median", "mean"):
        logits = random_logits().requires_grad_()
        page = levels_output(decode).page(logits, rows)
        page.backward(upstream)
        gradients.append(logits.grad)
        pages.append(page.detach())
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()
    assert (gradients[0][1, :, :4] != 0).all()
    assert (gradients[0][1, :, 4:] == 0).all()
    assert (pages[0] - pages[1]).abs().max() > 0.5 * STEP
    assert all((page[1, :, 4:] == 0).all() for page in pages)


def test_the_mean_is_the_expected_depth():
    logits = random_logits()
    page = levels_output("mean").page(logits, rows_at(torch.tensor([6, 6]), 6))
    expected = torch.einsum("bkhw,k->bhw", logits.double().softmax(1), torch.arange(8.0).double())
    torch.testing.assert_close(page[:, 0].double(), expected * STEP, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_new_model_adds_nothing_to_the_coarse_page(name):
    config = ModelConfig(output=name)
    output = build_output(config)
    base = STEP * torch.arange(1.0, 7).view(1, 1, 1, 6)
    added = torch.zeros(1, output.channels, 1, 6)
    page = output.page(output(base, added), rows_at(torch.tensor([1]), 1))
    torch.testing.assert_close(page, base, atol=0.05 * STEP, rtol=0)


def test_bf16_adds_levels_and_decodes_pages_in_fp32():
    images, heights = random_pages([64, 100])
    models = [build_model(output="levels") for _ in range(2)]
    apply_options(models[1], torch.device("cpu"), precision="bf16")
    size = tuple(images.shape[2:])
    noise = draw_noise(models[0], torch.tensor([1, 2]), size, gate=1.0, dropout=0.0)
    exact, half = (model(images, heights, noise) for model in models)
    assert half.logits.dtype == half.reconstruction.dtype == torch.float32
    (half.reconstruction.sum() + half.logits.square().mean()).backward()
    assert models[1].output.log_sharpness.grad.isfinite().all()
    torch.testing.assert_close(half.logits, exact.logits, atol=0.1, rtol=0.02)
