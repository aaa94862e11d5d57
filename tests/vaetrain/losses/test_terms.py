"""The tables of loss terms, and properties that every loss function in them must have."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

import pytest
import torch
from torch import Tensor

from tests.support.commands import run_python
from tests.vaetrain.losses.images import flat_and_noisy, full_heights
from vaetrain.losses.pixel import levels_nll
from vaetrain.losses.terms import PIXEL_LOSSES, TERMS

FUNCTIONS = [
    *(loss.function for loss in PIXEL_LOSSES.values()),
    *(term.function for term in TERMS if term.function is not None),
]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def of_images(path: str) -> Loss:
    """Return a loss as a function of two images; a likelihood of levels gets logits of both."""
    loss = resolve_name(path)
    if loss is not levels_nll:
        return loss

    def of_image(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
        # Powers of two: exact in half precision.
        slopes = torch.tensor([-2, -1, 0, 1, 2], dtype=prediction.dtype)[:, None, None]
        return loss(prediction * slopes, target, heights)

    return of_image


each_function = pytest.mark.parametrize(
    "loss",
    [of_images(path) for path in FUNCTIONS],
    ids=[path.partition(":")[2] for path in FUNCTIONS],
)


def test_every_term_of_a_page_has_a_function_or_a_builder():
    for term in (term for term in TERMS if not term.compares_pages):
        assert (term.function is None) != (term.builder is None), term.name
        assert callable(resolve_name(term.function or term.builder))
    assert len({term.name for term in TERMS}) == len(TERMS)


NEW_TERM = """
import sys
from vaetrain.losses import terms

terms.TERMS += (terms.LossTerm("squares", "weight of squares", function="__main__:squares"),)

def squares(prediction, target, heights):
    return (prediction - target).square().sum(dim=(1, 2, 3))

from vaetrain.config.experiment import describe_settings, load_experiment

assert "  loss.squares=0.0\\n      weight of squares [at least 0]" in describe_settings()
experiment = load_experiment(None, ["curriculum.phases=[{epoch: 2, squares: 3}]"])
assert "torch" not in sys.modules

import torch
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAEOutput
from vaetrain.schedules import weights_at

objective = Objective(experiment)
page = torch.rand(2, 1, 16, 16)
mu = torch.zeros(2, 3)
output = VAEOutput(page + 0.5, mu, mu, torch.zeros(2, 0), page)
arguments = (output, page, torch.tensor([16, 16]))
before, _ = objective(*arguments, weights_at(experiment, 1, 10))
after, parts = objective(*arguments, weights_at(experiment, 2, 10))
assert objective.parts == ("loss", "recon", "ssim", "kl", "squares")
torch.testing.assert_close(parts["squares"], torch.full((2,), 64.0))
torch.testing.assert_close(after - before, torch.full((2,), 3 * 64.0))
"""


def test_an_entry_in_the_table_adds_a_loss():
    done = run_python("-c", NEW_TERM)
    assert done.returncode == 0, done.stderr


@each_function
def test_a_padded_page_has_the_loss_of_the_cropped_page(loss: Loss):
    heights = torch.tensor([192, 191, 37, 12, 1])
    prediction, target = flat_and_noisy(5, 192, 48)  # the padding is not zero
    losses = loss(prediction, target, heights)
    for i, height in enumerate(heights.tolist()):
        cropped = prediction[i : i + 1, :, :height], target[i : i + 1, :, :height]
        expected = loss(*cropped, heights[i : i + 1])
        torch.testing.assert_close(losses[i : i + 1], expected, atol=1e-6, rtol=1e-5)


@each_function
def test_the_padding_has_no_gradient(loss: Loss):
    prediction, target = flat_and_noisy(2, 64, 32)
    prediction.requires_grad_()
    loss(prediction, target, torch.tensor([40, 21])).sum().backward()
    assert prediction.grad[0, :, :40].any()
    assert not prediction.grad[0, :, 40:].any()
    assert not prediction.grad[1, :, 21:].any()


@each_function
def test_gradients_equal_finite_differences(loss: Loss):
    prediction, target = (image.double() for image in flat_and_noisy(2, 26, 22))
    prediction.requires_grad_()
    heights = torch.tensor([26, 23])
    assert torch.autograd.gradcheck(
        lambda images: loss(images, target, heights), prediction, atol=1e-6, fast_mode=True
    )


@each_function
def test_half_precision_inputs_are_computed_in_float32(loss: Loss):
    prediction, target = flat_and_noisy(2, 48, 32)
    prediction = prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss(prediction, target, full_heights(target))
    assert losses.dtype == torch.float32
    expected = loss(prediction.float(), target, full_heights(target))
    torch.testing.assert_close(losses, expected)
