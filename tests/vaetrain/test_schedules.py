"""Schedules at their corner points, with values computed by hand."""

from pathlib import Path

import pytest
import torch
import yaml

from vaetrain.config.experiment import load_experiment
from vaetrain.gan.trainer import gan_step_at
from vaetrain.model.config import SkipConfig
from vaetrain.schedules import Clock, LrConfig, lr_at, skip_gate_at, weights_at
from vaetrain.settings import read_yaml

EXPERIMENTS = Path(__file__).resolve().parents[2] / "launch" / "experiments"


def clock_for(pages: int, *overrides: str) -> Clock:
    return load_experiment(None, list(overrides)).clock(pages)


def test_the_horizon_is_a_multiple_of_the_global_batch():
    assert clock_for(100, "train.epochs=3", "train.global_batch_size=16").horizon == 304
    settings = ("train.epochs=3", "train.global_batch_size=16", "train.max_images=33")
    assert clock_for(100, *settings).horizon == 48
    assert clock_for(3, "train.epochs=1", "train.global_batch_size=16").horizon == 16


def test_events_are_due_at_steps_that_cross_a_multiple():
    clock = Clock(epoch_images=100, global_batch_size=16, horizon=1600)
    due = [images for images in range(16, 400, 16) if clock.due(images, 100)]
    assert due == [112, 208, 304]
    assert all(clock.due(images, 5) for images in range(16, 400, 16))


def beta_at(epoch: float, *settings: str, epochs: float = 20.0) -> float:
    experiment = load_experiment(None, [f"beta.{setting}" for setting in settings])
    return weights_at(experiment, epoch, epochs).beta


def test_beta_rises_linearly_and_stays():
    rise = ("schedule=linear", "max=0.8", "warmup_epochs=4")
    assert [beta_at(epoch, *rise) for epoch in (0, 1, 4, 400)] == [0, 0.2, 0.8, 0.8]
    assert beta_at(0, "schedule=constant", "max=0.8") == 0.8
    assert beta_at(0, "schedule=linear", "max=0.8", "warmup_epochs=0") == 0.8


def test_two_stages_meet_at_half_and_end_near_the_maximum():
    stages = ("schedule=two_stage", "max=2", "warmup_epochs=5")
    assert beta_at(0, *stages) == 0
    assert beta_at(2.5, *stages) == pytest.approx(0.5)
    assert beta_at(5 - 1e-9, *stages) == pytest.approx(1.0)
    assert beta_at(5, *stages) == pytest.approx(1.0)
    # The middle of the second stage: 1 - 0.5 exp(-1.5) = 0.888435.
    assert beta_at(12.5, *stages) == pytest.approx(2 * 0.888435, abs=1e-5)
    assert beta_at(20, *stages) == pytest.approx(2 * 0.975, abs=1e-3)
    assert beta_at(2000, *stages) == pytest.approx(2 * 0.975, abs=1e-3)
    # Trainings as long as the warm-up, and shorter.
    assert beta_at(5, *stages, epochs=5) == pytest.approx(2 * 0.975, abs=1e-3)
    assert beta_at(3, *stages, epochs=3) == pytest.approx(0.6)


def test_cycles_rise_stay_and_restart():
    cycles = ("schedule=cyclical", "cycles=4", "cycle_ramp=0.5")
    values = [beta_at(epoch, *cycles) for epoch in (0, 1.25, 2.5, 4.9, 5, 6.25, 19.9, 20, 99)]
    assert values == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1])


def test_the_capacity_rises_from_zero():
    rise = ("beta.capacity=50", "beta.capacity_epochs=10")
    experiment = load_experiment(None, list(rise))
    assert [weights_at(experiment, epoch, 20).capacity for epoch in (0, 5, 10, 99)] == [
        0,
        25,
        50,
        50,
    ]
    assert weights_at(load_experiment(None, []), 5, 20).capacity is None


PHASES = (
    "curriculum.phases=[{epoch: 0, beta: 0, ssim: 0}, {epoch: 10, beta: 0.5, perceptual: 0.05}, "
    "{epoch: 20, beta: 1.0, perceptual: 0.1}]"
)


def phase_weights(epoch: float, *settings: str) -> tuple[float, ...]:
    experiment = load_experiment(None, [PHASES, "beta.schedule=constant", *settings])
    weights = weights_at(experiment, epoch, 30)
    terms = [weights.terms[name] for name in ("recon", "ssim", "perceptual")]
    return *terms, weights.beta


def test_phases_change_weights_at_once():
    assert phase_weights(0) == (1, 0, 0, 0)
    assert phase_weights(10 - 1e-9) == (1, 0, 0, 0)
    assert phase_weights(10) == (1, 0, 0.05, 0.5)
    assert phase_weights(20) == phase_weights(1000) == (1, 0, 0.1, 1.0)
    assert phase_weights(10, "loss.recon=3") == (3, 0, 0.05, 0.5)


def test_phases_blend_weights_linearly():
    assert phase_weights(10, "curriculum.blend_epochs=4") == (1, 0, 0, 0)
    assert phase_weights(11, "curriculum.blend_epochs=4") == pytest.approx((1, 0, 0.0125, 0.125))
    assert phase_weights(14, "curriculum.blend_epochs=4") == pytest.approx((1, 0, 0.05, 0.5))
    # A blend longer than its phase: half done at epoch 20, from where the next blend starts.
    assert phase_weights(20, "curriculum.blend_epochs=20") == pytest.approx((1, 0, 0.025, 0.25))
    assert phase_weights(30, "curriculum.blend_epochs=20") == pytest.approx((1, 0, 0.0625, 0.625))


def test_a_phase_sets_the_maximum_of_the_beta_schedule():
    settings = ["curriculum.phases=[{epoch: 4, beta: 3}]", "beta.warmup_epochs=8"]
    experiment = load_experiment(None, settings)
    assert [weights_at(experiment, epoch, 20).beta for epoch in (2, 4, 8)] == [0.25, 1.5, 3]


def test_the_price_of_a_ladder_rises_to_its_factor_of_beta():
    experiment = load_experiment(None, ["beta.levels=0.2", "beta.levels_warmup_epochs=4"])
    assert [weights_at(experiment, epoch, 20).levels for epoch in (0, 2, 4, 9)] == [
        0,
        0.1,
        0.2,
        0.2,
    ]


def test_the_skip_gate_stays_closed_and_then_opens():
    skips = SkipConfig(start_epoch=5, ramp_epochs=4)
    epochs = (0, 5 - 1e-9, 5, 7, 9, 99)
    assert [skip_gate_at(skips, "gated", e) for e in epochs] == [0, 0, 0, 0.5, 1, 1]
    assert skip_gate_at(SkipConfig(start_epoch=0, ramp_epochs=0), "gated", 0) == 1
    assert skip_gate_at(skips, "hierarchical", 0) == 1


def test_a_cosine_follows_the_warm_up_and_stays_at_its_floor():
    lr = LrConfig(schedule="cosine", warmup_epochs=2, floor=0.1)
    assert lr_at(lr, 1.0, 0, 10) == 0
    assert lr_at(lr, 1.0, 5, 10) == pytest.approx(0.55)
    assert lr_at(lr, 1.0, 10, 10) == pytest.approx(0.1)
    assert lr_at(lr, 1.0, 1000, 10) == pytest.approx(0.1)


def test_a_fractional_factor_lengthens_cycles():
    """Cycles of 20, 30 and 45 epochs restart at 20, 50 and 95; the next ends with the training."""
    lr = LrConfig(warmup_epochs=0, cycle_epochs=20, cycle_factor=1.5, floor=1e-7)
    for restart in (0, 20, 50, 95):
        assert lr_at(lr, 1e-3, restart, 200) == pytest.approx(1e-3)
    for end in (20, 50, 95, 200):
        assert lr_at(lr, 1e-3, end - 1e-6, 200) == pytest.approx(1e-7, rel=1e-3)
    assert lr_at(lr, 1e-3, 35, 200) == pytest.approx((1e-3 + 1e-7) / 2)
    assert lr_at(lr, 1e-3, 200, 200) == lr_at(lr, 1e-3, 1000, 200) == pytest.approx(1e-7)


def test_cycles_of_equal_length_and_a_constant():
    lr = LrConfig(warmup_epochs=0, cycle_epochs=5, floor=0.0)
    assert lr_at(lr, 1.0, 15, 20) == pytest.approx(1.0)
    assert lr_at(lr, 1.0, 12.5, 20) == pytest.approx(0.5)
    assert lr_at(lr, 1.0, 20, 20) == lr_at(lr, 1.0, 99, 20) == 0
    constant = LrConfig(schedule="constant", warmup_epochs=4)
    assert [lr_at(constant, 2.0, epoch, 20) for epoch in (0, 1, 4, 99)] == [0, 0.5, 2, 2]


@pytest.mark.parametrize(
    ("epochs", "factor", "last_start"),
    [
        (22.4, 1.0, 15),  # 2.4 of 5 epochs left: joined to the cycle before
        (22.6, 1.0, 20),  # 2.6 of 5 epochs left: a cycle of its own
        (20.01, 1.0, 15),
        (4.0, 1.0, 0),  # shorter than a cycle
        (19.0, 2.0, 5),  # cycles of 5 and 10, then 4 of 20 left
        (26.0, 2.0, 15),  # then 11 of 20 left
        (3.0, 2.0, 0),
    ],
)
def test_the_last_cycle_ends_with_the_training(epochs, factor, last_start):
    lr = LrConfig(warmup_epochs=0, cycle_epochs=5, cycle_factor=factor, floor=0.0)
    assert lr_at(lr, 1.0, last_start, epochs) == 1.0
    assert lr_at(lr, 1.0, (last_start + epochs) / 2, epochs) == pytest.approx(0.5)
    assert lr_at(lr, 1.0, epochs, epochs) == lr_at(lr, 1.0, 2 * epochs, epochs) == 0
    falling = [
        lr_at(lr, 1.0, last_start + (epochs - last_start) * i / 50, epochs) for i in range(51)
    ]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_end_at_a_low_learning_rate(path, tmp_path):
    tree = read_yaml(path, "experiment file")
    study = tree.pop("sweep", {})
    settings = [
        *study.get("space", {}),
        *(key for v in study.get("variants", {}).values() for key in v),
    ]
    assert not any(key.startswith("lr") for key in settings)  # would need a look at each of them
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(tree))
    experiment = load_experiment(tmp_path / "plain.yaml", [])
    peaks = study.get("space", {}).get("optimizer.lr", [experiment.optimizer.lr])
    # Pages of the built-in sample's training split, and of other data.
    for pages in (437, 1, 100, 3963, 60_000, 1_000_003):
        clock = experiment.clock(pages)
        for peak in peaks:
            assert lr_at(experiment.lr, peak, clock.epochs, clock.epochs) <= 0.05 * peak
        if experiment.gan.enabled:
            step = gan_step_at(experiment.gan, clock, clock.horizon)
            assert step is None or step.lr <= 0.05 * experiment.gan.lr


def test_an_exponential_warm_up_multiplies_by_a_constant_factor():
    lr = LrConfig(schedule="constant", warmup="exponential", warmup_epochs=3)
    values = [lr_at(lr, 2.0, epoch, 20) for epoch in (0, 1, 2, 3, 9)]
    assert values == pytest.approx([0.002, 0.02, 0.2, 2, 2])


def test_onecycle_equals_pytorchs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    # PyTorch ends the rise at step pct_start * total - 1 and the cycle at step total - 1.
    total = 1001
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3.0, total_steps=total, pct_start=301 / total
    )
    lr = LrConfig(schedule="onecycle")
    for step in range(total):
        rate = lr_at(lr, 3.0, step, total - 1)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6), step
        if step < total - 1:
            optimizer.step()
            scheduler.step()
    assert lr_at(lr, 3.0, 10 * total, total - 1) == pytest.approx(3.0 / 25 / 1e4)
