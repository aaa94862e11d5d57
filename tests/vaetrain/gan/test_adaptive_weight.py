"""Adaptive weight of the generator loss, and moving means of logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaetrain.gan.adaptive_weight import DECAY, GradientBalance, MovingMeans

CPU = torch.device("cpu")


def noise(seed: int) -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def backward(balance: GradientBalance, base: Tensor, factor: float, scale: float = 1.0) -> Tensor:
    """Run a backward pass through both views; return the gradient at their common input."""
    x = base.clone().requires_grad_()
    page, fake = balance.fork(x, torch.tensor(factor))
    losses = page.square().sum() + 3 * fake.pow(3).sum()
    (losses * scale).backward()
    return x.grad


def test_gradient_norms_of_both_views_are_measured_separately():
    balance = GradientBalance(1e4, CPU)
    x = noise(0)
    backward(balance, x, 0.25)
    expected = [(2 * x).square().sum().item(), (9 * x.square()).square().sum().item()]
    assert balance.squares.tolist() == pytest.approx(expected, rel=1e-6)
    balance.update(balance.squares, torch.tensor(True))
    assert balance.weight.item() == pytest.approx((expected[0] / expected[1]) ** 0.5, rel=1e-6)
    assert not balance.squares.any()


def test_gradient_of_the_second_view_is_multiplied_by_the_factor():
    x = noise(0)
    found = backward(GradientBalance(1e4, CPU), x, 0.25)
    torch.testing.assert_close(found, 2 * x + 0.25 * 9 * x.square())


def test_factor_of_zero_blocks_the_gradient_but_measures_it():
    open_gate, closed = GradientBalance(1e4, CPU), GradientBalance(1e4, CPU)
    backward(open_gate, noise(0), 1.0)
    assert torch.equal(backward(closed, noise(0), 0.0), 2 * noise(0))
    assert torch.equal(closed.squares, open_gate.squares)


@pytest.mark.parametrize("scale", [1 / 8, 65536.0])
def test_loss_scale_cancels(scale):
    weights = []
    for factor in (1.0, scale):
        balance = GradientBalance(1e4, CPU)
        backward(balance, noise(0), 1.0, scale=factor)
        balance.update(balance.squares, torch.tensor(True))
        weights.append(balance.weight.item())
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


def test_squared_norms_add_up_over_micro_batches_and_ranks():
    whole, left, right = (GradientBalance(1e4, CPU) for _ in range(3))
    backward(whole, noise(0), 1.0)
    backward(left, noise(0)[:1], 1.0)
    backward(right, noise(0)[1:2], 1.0)
    backward(right, noise(0)[2:], 1.0)
    torch.testing.assert_close(left.squares + right.squares, whole.squares)
    # Ratios do not add up: the mean of the ranks' own weights is another number.
    own = [(b.squares[0] / b.squares[1]).sqrt().item() for b in (left, right)]
    mean = sum(own) / 2
    assert abs(mean - (whole.squares[0] / whole.squares[1]).sqrt().item()) > 1e-3


@pytest.mark.parametrize(
    ("squares", "expected"),
    [
        ((4.0, 1.0), 2.0),
        ((1e9, 1.0), 50.0),
        ((1.0, 0.0), 7.0),
        ((0.0, 1.0), 7.0),
        ((float("nan"), 1.0), 7.0),
        ((1.0, float("inf")), 7.0),
    ],
)
def test_weight_is_bounded_and_stays_finite(squares, expected):
    balance = GradientBalance(50.0, CPU)
    assert balance.weight.item() == 1
    balance.weight.fill_(7.0)
    balance.update(torch.tensor(squares, dtype=torch.float64), torch.tensor(True))
    assert balance.weight.item() == expected
    assert balance.one.item() == 1


def test_moving_means_decay_from_the_first_step_on():
    means = MovingMeans(CPU)
    assert [mean.item() for mean in means.read()] == [0, 0]
    real, fake = [2.0, -1.0, 4.0], [0.5, 0.25, -3.0]
    for values in zip(real, fake, strict=True):
        means.add(*(torch.tensor(value) for value in values), torch.tensor(True))
    weights = [DECAY**2, DECAY, 1]
    for found, values in zip(means.read(), (real, fake), strict=True):
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert found.item() == pytest.approx(expected, rel=1e-6)
