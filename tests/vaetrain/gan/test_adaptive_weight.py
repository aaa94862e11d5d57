"""The adaptive weight, and the moving means of logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaetrain.gan.adaptive_weight import DECAY, GradientBalance, MovingMeans

CPU = torch.device("cpu")


def noise(seed: int) -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def play(balance: GradientBalance, base: Tensor, factor: float, scale: float = 1.0) -> Tensor:
    """One backward pass through both branches; the gradient at their common input."""
    x = base.clone().requires_grad_()
    ours, theirs = balance.fork(x, torch.tensor(factor))
    losses = ours.square().sum() + 3 * theirs.pow(3).sum()
    (losses * scale).backward()
    return x.grad


def test_each_branch_is_measured_by_itself():
    balance = GradientBalance(1e4, CPU)
    x = noise(0)
    play(balance, x, 0.25)
    expected = [(2 * x).square().sum().item(), (9 * x.square()).square().sum().item()]
    assert balance.squares.tolist() == pytest.approx(expected, rel=1e-6)
    balance.update(balance.squares, torch.tensor(True))
    assert balance.weight.item() == pytest.approx((expected[0] / expected[1]) ** 0.5, rel=1e-6)
    assert not balance.squares.any()


def test_the_second_branch_is_weighed():
    x = noise(0)
    found = play(GradientBalance(1e4, CPU), x, 0.25)
    torch.testing.assert_close(found, 2 * x + 0.25 * 9 * x.square())


def test_a_closed_gate_is_measured_too_and_lets_nothing_through():
    open_gate, closed = GradientBalance(1e4, CPU), GradientBalance(1e4, CPU)
    play(open_gate, noise(0), 1.0)
    assert torch.equal(play(closed, noise(0), 0.0), 2 * noise(0))
    assert torch.equal(closed.squares, open_gate.squares)


@pytest.mark.parametrize("scale", [1 / 8, 65536.0])
def test_the_scale_of_the_losses_cancels(scale):
    weights = []
    for factor in (1.0, scale):
        balance = GradientBalance(1e4, CPU)
        play(balance, noise(0), 1.0, scale=factor)
        balance.update(balance.squares, torch.tensor(True))
        weights.append(balance.weight.item())
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


def test_micro_batches_and_ranks_add_up():
    whole, left, right = (GradientBalance(1e4, CPU) for _ in range(3))
    play(whole, noise(0), 1.0)
    play(left, noise(0)[:1], 1.0)
    play(right, noise(0)[1:2], 1.0)
    play(right, noise(0)[2:], 1.0)
    torch.testing.assert_close(left.squares + right.squares, whole.squares)
    # Ratios do not: the mean of ranks' own weights is another number.
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
def test_the_weight_is_bounded_and_never_broken(squares, expected):
    balance = GradientBalance(50.0, CPU)
    assert balance.weight.item() == 1
    balance.weight.fill_(7.0)
    balance.update(torch.tensor(squares, dtype=torch.float64), torch.tensor(True))
    assert balance.weight.item() == expected
    assert balance.one.item() == 1


def test_moving_means_weigh_earlier_steps_less_from_the_first_one_on():
    means = MovingMeans(CPU)
    assert [mean.item() for mean in means.read()] == [0, 0]
    real, fake = [2.0, -1.0, 4.0], [0.5, 0.25, -3.0]
    for values in zip(real, fake, strict=True):
        means.add(*(torch.tensor(value) for value in values), torch.tensor(True))
    weights = [DECAY**2, DECAY, 1]
    for found, values in zip(means.read(), (real, fake), strict=True):
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert found.item() == pytest.approx(expected, rel=1e-6)
