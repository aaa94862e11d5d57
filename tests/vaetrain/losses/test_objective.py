"""The objective: the sum of its parts, each as its definition says."""

import pytest
import torch

from vaetrain.config.experiment import load_experiment
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.vae import VAEOutput

HEIGHTS = torch.tensor([20, 20])


def an_output(*, ladder: int = 0, seed: int = 0) -> tuple[VAEOutput, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 1, 32, 32, generator=draw)
    guess = torch.rand(2, 1, 32, 32, generator=draw)
    target[:, :, 20:] = guess[:, :, 20:] = 0
    mu, logvar = torch.randn(2, 5, generator=draw), torch.randn(2, 5, generator=draw)
    levels = torch.rand(2, ladder, generator=draw)
    return VAEOutput(guess, mu, logvar, levels, torch.logit(guess)), target


def objective(*settings: str) -> Objective:
    return Objective(load_experiment(None, list(settings)))


def kl_of(output: VAEOutput) -> torch.Tensor:
    normal = torch.distributions.Normal
    posterior = normal(output.mu, (output.logvar / 2).exp())
    return torch.distributions.kl_divergence(posterior, normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("reduction", "share"), [("sum", 1.0), ("mean", 1 / 5), ("pixel", 1 / (32 * 20))]
)
def test_it_is_the_weighed_sum_of_its_parts(reduction, share):
    output, target = an_output()
    total, parts = objective(f"beta.reduction={reduction}")(
        output, target, HEIGHTS, Weights(recon=2.0, ssim=0.5, beta=0.3)
    )
    l1 = (output.reconstruction - target)[:, :, :20].abs().mean(dim=(1, 2, 3))
    expected = 2 * l1 + 0.5 * (1 - parts["ssim"]) + 0.3 * share * kl_of(output).sum(1)
    torch.testing.assert_close(parts["kl"], kl_of(output).sum(1))
    torch.testing.assert_close(parts["recon"], l1)
    torch.testing.assert_close(total, expected)


def test_every_loss_counts_by_its_weight():
    settings = ("loss.ms_ssim=1", "loss.gradient=1", "loss.perceptual=1", "beta.reduction=sum")
    measure = objective(*settings)
    output, target = an_output()
    weights = {"recon": 1.1, "ssim": 1.3, "ms_ssim": 1.7, "gradient": 1.9, "perceptual": 2.3}
    total, parts = measure(output, target, HEIGHTS, Weights(**weights, beta=0.7))
    expected = 0.7 * parts["kl"]
    for term, weight in weights.items():
        cost = 1 - parts[term] if "ssim" in term else parts[term]
        assert (cost > 0).all()
        expected = expected + weight * cost
    torch.testing.assert_close(total, expected)
    assert set(parts) == set(measure.parts)


@pytest.mark.parametrize(
    ("pixel", "formula"),
    [
        ("mse", lambda guess, target: (guess - target) ** 2),
        ("charbonnier", lambda guess, target: ((guess - target) ** 2 + 1e-6).sqrt()),
        ("bce", lambda p, target: -(target * p.log() + (1 - target) * (1 - p).log())),
    ],
)
def test_the_pixel_loss_is_the_one_that_was_chosen(pixel, formula):
    output, target = an_output()
    also = ["model.output=sigmoid"] if pixel == "bce" else []
    measure = objective(f"loss.pixel={pixel}", *also)
    _, parts = measure(output, target, HEIGHTS, Weights())
    guess, target = (x[:, :, :20].double() for x in (output.reconstruction, target))
    expected = formula(guess, target).mean(dim=(1, 2, 3))
    torch.testing.assert_close(parts["recon"].double(), expected, rtol=1e-5, atol=1e-6)


def test_free_bits_cost_nothing_and_teach_nothing():
    output, target = an_output()
    mu = output.mu.clone().requires_grad_()
    output = output._replace(mu=mu)
    measure = objective("beta.free_bits=0.8", "beta.reduction=sum")
    total, parts = measure(output, target, HEIGHTS, Weights(recon=0.0, beta=1.0))
    nats = kl_of(output)
    torch.testing.assert_close(total, nats.clamp(min=0.8).sum(1))
    torch.testing.assert_close(parts["kl"], nats.sum(1).detach())
    total.sum().backward()
    assert (mu.grad[nats < 0.8] == 0).all()
    assert (mu.grad[nats > 0.8] != 0).all()


@pytest.mark.parametrize("capacity", [0.0, 3.0, 1000.0])
def test_a_capacity_is_approached_from_either_side(capacity):
    output, target = an_output()
    measure = objective("beta.capacity=1", "beta.reduction=sum")
    weights = Weights(recon=0.0, beta=2.0, capacity=capacity)
    total, _ = measure(output, target, HEIGHTS, weights)
    torch.testing.assert_close(total, 2 * (kl_of(output).sum(1) - capacity).abs())


def test_a_ladder_is_part_of_the_bound():
    output, target = an_output(ladder=3)
    total, parts = objective("beta.reduction=sum")(
        output, target, HEIGHTS, Weights(recon=0.0, beta=1.0)
    )
    torch.testing.assert_close(parts["kl"], kl_of(output).sum(1) + output.ladder.sum(1))
    torch.testing.assert_close(total, parts["kl"])


def test_a_spatial_latents_dimensions_are_its_channels():
    draw = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 5, 3, 4, generator=draw), torch.randn(2, 5, 3, 4, generator=draw)
    output = VAEOutput(mu, mu, logvar, torch.zeros(2, 0), mu)
    torch.testing.assert_close(kl_per_page_and_dimension(output), kl_of(output).sum(dim=(2, 3)))


def test_a_controllers_beta_leaves_the_losses_in_float32():
    output, target = an_output()
    beta = torch.tensor(0.3, dtype=torch.float64)
    total, _ = objective()(output, target, HEIGHTS, Weights(beta=beta))
    same, _ = objective()(output, target, HEIGHTS, Weights(beta=0.3))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, same)


def test_shares_weigh_the_pictures_and_not_the_kl():
    output, target = an_output()
    measure, weights = objective(), Weights(ssim=0.5, beta=0.1)
    whole, parts = measure(output, target, HEIGHTS, weights)
    shared, _ = measure(output, target, HEIGHTS, weights, torch.tensor([1.5, 0.5]))
    kl = 0.1 * parts["kl"] / (20 * 32)
    torch.testing.assert_close(shared - kl, (whole - kl) * torch.tensor([1.5, 0.5]))


def test_half_precision_gives_the_losses_of_full_within_its_rounding():
    settings = ("loss.ms_ssim=1", "loss.gradient=1", "loss.perceptual=1")
    output, target = an_output()
    weights = Weights(ssim=1.0, ms_ssim=1.0, gradient=1.0, perceptual=1.0, beta=1.0)
    _, exact = objective(*settings)(output, target, HEIGHTS, weights)
    halved = VAEOutput(*(field.bfloat16() for field in output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, rough = objective(*settings)(halved, target, HEIGHTS, weights)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], value, rtol=2**-7, atol=2**-7)
