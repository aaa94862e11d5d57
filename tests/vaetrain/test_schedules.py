"""Schedules at their corner points, by values worked out by hand."""

import pytest

from vaetrain.config import BetaConfig, LrConfig, load_experiment
from vaetrain.schedules import Clock, beta_at, lr_at


def clock_of(pages: int, *overrides: str) -> Clock:
    return Clock.of(load_experiment(None, list(overrides)), pages)


def test_the_horizon_is_whole_steps():
    assert clock_of(100, "train.epochs=3", "train.global_batch_size=16").horizon == 304
    settings = ("train.epochs=3", "train.global_batch_size=16", "train.max_images=33")
    assert clock_of(100, *settings).horizon == 48
    assert clock_of(3, "train.epochs=1", "train.global_batch_size=16").horizon == 16


def test_events_are_due_when_a_multiple_is_crossed():
    clock = Clock(epoch_images=100, global_batch_size=16, horizon=1600)
    due = [images for images in range(16, 400, 16) if clock.due(images, 100)]
    assert due == [112, 208, 304]
    assert all(clock.due(images, 5) for images in range(16, 400, 16))


def test_beta_rises_linearly_and_stays():
    beta = BetaConfig(schedule="linear", max=0.8, warmup_epochs=4)
    assert [beta_at(beta, epoch) for epoch in (0, 1, 4, 400)] == [0, 0.2, 0.8, 0.8]
    assert beta_at(BetaConfig(schedule="constant", max=0.8), 0) == 0.8
    assert beta_at(BetaConfig(schedule="linear", max=0.8, warmup_epochs=0), 0) == 0.8


def test_warm_up_then_one_cosine_to_the_end_and_beyond():
    lr = LrConfig(schedule="cosine", warmup_epochs=2, floor=0.1)
    assert lr_at(lr, 1.0, 0, 10) == 0
    assert lr_at(lr, 1.0, 5, 10) == pytest.approx(0.55)
    assert lr_at(lr, 1.0, 10, 10) == pytest.approx(0.1)
    assert lr_at(lr, 1.0, 1000, 10) == pytest.approx(0.1)


def test_restarts_with_a_fractional_factor():
    """T_0 = 20 and a factor of 1.5 restart at 20, 20 + 30 = 50 and 50 + 45 = 95."""
    lr = LrConfig(warmup_epochs=0, cycle_epochs=20, cycle_factor=1.5, floor=1e-7)
    for restart in (0, 20, 50, 95):
        assert lr_at(lr, 1e-3, restart, 200) == pytest.approx(1e-3)
    for end in (20, 50, 95):
        assert lr_at(lr, 1e-3, end - 1e-6, 200) == pytest.approx(1e-7, rel=1e-3)
    assert lr_at(lr, 1e-3, 35, 200) == pytest.approx((1e-3 + 1e-7) / 2)


def test_equal_cycles_and_a_constant():
    lr = LrConfig(warmup_epochs=0, cycle_epochs=5, floor=0.0)
    assert lr_at(lr, 1.0, 15, 20) == pytest.approx(1.0)
    assert lr_at(lr, 1.0, 12.5, 20) == pytest.approx(0.5)
    constant = LrConfig(schedule="constant", warmup_epochs=4)
    assert [lr_at(constant, 2.0, epoch, 20) for epoch in (0, 1, 4, 99)] == [0, 0.5, 2, 2]
