"""KL controller and learned loss weights."""

import math

import pytest
import torch

from tests.support.engines import FakeEngine
from vaetrain.config.experiment import load_experiment
from vaetrain.losses.config import BetaConfig
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAEOutput
from vaetrain.schedules import weights_at
from vaetrain.training.controllers import KLController, LearnedWeights

CPU = torch.device("cpu")
APPLIED = torch.tensor(True)


def step_weights(learned: LearnedWeights) -> None:
    FakeEngine().average_gradients([learned.log_variances])
    learned.step(FakeEngine(), APPLIED)


def test_controller_follows_the_formula_of_controlvae():
    """Shao et al. 2020, algorithm 1: Kp / (1 + exp(e)) - Ki * sum of e, written in floats."""
    config = BetaConfig(target_kl=20.0, proportional=0.01, integral=0.001, max=1.0)
    controller = KLController(config, CPU)
    total = 0.0
    for kl in (30.0, 25.0, 22.0, 21.0, 19.5):
        controller.update(torch.tensor(kl), APPLIED)
        error = 20.0 - kl
        total += error
        expected = 0.01 / (1 + math.exp(error)) - 0.001 * total
        assert float(controller.beta) == pytest.approx(expected)


def test_controller_holds_the_kl_at_the_target():
    controller = KLController(BetaConfig(target_kl=40.0, integral=0.001, max=5.0), CPU)
    kl = 100.0
    for _ in range(5000):
        controller.update(torch.tensor(kl), APPLIED)
        kl = 100.0 / (1 + 2 * float(controller.beta))
    assert kl == pytest.approx(40.0, abs=0.5)


def test_beta_stays_within_bounds_without_windup():
    controller = KLController(BetaConfig(target_kl=50.0, integral=0.01, max=0.3), CPU)
    for _ in range(1000):
        controller.update(torch.tensor(500.0), APPLIED)
    assert float(controller.beta) == pytest.approx(0.3)
    for _ in range(40):
        controller.update(torch.tensor(40.0), APPLIED)
    assert float(controller.beta) == 0
    for _ in range(1000):
        controller.update(torch.tensor(0.0), APPLIED)
    assert float(controller.beta) == 0


def test_integral_does_not_wind_up_under_a_cap():
    config = BetaConfig(target_kl=50.0, proportional=0.0, integral=1e-4, max=5.0)
    controller = KLController(config, CPU)
    for _ in range(1000):
        controller.update(torch.tensor(100.0), APPLIED, 0.2)
    assert float(controller.beta) == pytest.approx(0.2)
    controller.update(torch.tensor(100.0), APPLIED)
    assert float(controller.beta) == pytest.approx(0.205)


def test_resumed_controller_gives_identical_beta():
    config = BetaConfig(target_kl=20.0, integral=0.001)
    whole, first = KLController(config, CPU), KLController(config, CPU)
    values = [torch.tensor(20.0 + n) for n in range(10)]
    for kl in values:
        whole.update(kl, APPLIED)
    for kl in values[:4]:
        first.update(kl, APPLIED)
    second = KLController(config, CPU)
    second.load(first.state())
    for kl in values[4:]:
        second.update(kl, APPLIED)
    assert float(second.beta) == float(whole.beta)


def an_objective() -> Objective:
    return Objective(load_experiment(None, ["loss.combine=learned", "loss.gradient=0.5"]))


def backward(objective: Objective, guess: torch.Tensor) -> None:
    target, heights = torch.zeros(2, 1, 32, 32), torch.tensor([32, 20])
    flat = torch.zeros(2, 3)
    output = VAEOutput(guess, flat, flat, torch.zeros(2, 0), guess)
    losses, _ = objective(output, target, heights, weights_at(load_experiment(None, []), 0, 1))
    losses.mean().backward()


def test_learned_weights_converge_to_the_optimum():
    """At the optimum a variance is its weighted loss (Kendall et al. 2018, eq. 7)."""
    objective = an_objective()
    learned = LearnedWeights(objective.log_variances)
    guess = torch.full((2, 1, 32, 32), 0.3)
    for _ in range(400):
        backward(objective, guess)
        step_weights(learned)
    assert [term.name for term in objective.terms] == ["recon", "ssim", "gradient"]
    weights = objective.learned_weights()
    assert weights["learned_recon"] == pytest.approx(1 / (2 * 0.3), rel=0.02)


@pytest.mark.slow
def test_learned_weights_stay_bounded_as_a_loss_goes_to_zero():
    objective = an_objective()
    learned = LearnedWeights(objective.log_variances)
    for step in range(800):
        backward(objective, torch.full((2, 1, 32, 32), 0.3 * 0.97**step))
        step_weights(learned)
    weights = objective.learned_weights()
    assert all(0 < weight <= 0.5 * math.exp(5.001) for weight in weights.values())
    assert weights["learned_recon"] > 20


def test_resumed_learned_weights_are_identical():
    def steps(objective: Objective, learned: LearnedWeights, count: int) -> None:
        for _ in range(count):
            backward(objective, torch.full((2, 1, 32, 32), 0.3))
            step_weights(learned)

    whole, first, second = an_objective(), an_objective(), an_objective()
    steps(whole, LearnedWeights(whole.log_variances), 7)
    before = LearnedWeights(first.log_variances)
    steps(first, before, 3)
    after = LearnedWeights(second.log_variances)
    after.load(before.state())
    steps(second, after, 4)
    assert torch.equal(second.log_variances, whole.log_variances)
