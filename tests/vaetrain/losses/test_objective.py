"""The objective: a weighted sum of loss terms and the KL."""

import pytest
import torch

from vaetrain.config.experiment import load_experiment
from vaetrain.losses.objective import Objective
from vaetrain.losses.terms import TERMS
from vaetrain.losses.weights import Weights
from vaetrain.model.vae import VAEOutput

HEIGHTS = torch.tensor([20, 20])
ALL_TERMS = tuple(f"loss.{term.name}=1" for term in TERMS)


def random_output(*, ladder: int = 0) -> tuple[VAEOutput, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 1, 32, 32, generator=generator)
    prediction = torch.rand(2, 1, 32, 32, generator=generator)
    target[:, :, 20:] = prediction[:, :, 20:] = 0
    mu, logvar = torch.randn(2, 5, generator=generator), torch.randn(2, 5, generator=generator)
    levels = torch.rand(2, ladder, generator=generator)
    return VAEOutput(prediction, mu, logvar, levels, torch.logit(prediction)), target


def build(*settings: str) -> Objective:
    return Objective(load_experiment(None, list(settings)))


def kl_of(output: VAEOutput) -> torch.Tensor:
    normal = torch.distributions.Normal
    posterior = normal(output.mu, (output.logvar / 2).exp())
    return torch.distributions.kl_divergence(posterior, normal(0.0, 1.0)).sum(dim=1)


def test_it_is_the_weighted_sum_of_its_parts():
    output, target = random_output()
    weights = Weights({"recon": 2.0, "ssim": 0.5}, beta=0.3)
    total, parts = build()(output, target, HEIGHTS, weights)
    l1 = (output.reconstruction - target)[:, :, :20].abs().mean(dim=(1, 2, 3))
    expected = 2 * l1 + 0.5 * (1 - parts["ssim"]) + 0.3 * kl_of(output) / (32 * 20)
    torch.testing.assert_close(parts["kl"], kl_of(output))
    torch.testing.assert_close(parts["recon"], l1)
    torch.testing.assert_close(total, expected)


def test_every_term_is_weighted():
    objective = build(*ALL_TERMS, "beta.reduction=sum")
    output, target = random_output()
    weights = {term.name: 1.1 + 0.2 * number for number, term in enumerate(TERMS)}
    contrast = torch.tensor([0.3, 0.4])
    given = (output, target, HEIGHTS, Weights(weights, beta=0.7))
    total, parts = objective(*given, contrast=contrast)
    assert torch.equal(parts["contrastive"], contrast)
    expected = 0.7 * parts["kl"]
    for term in TERMS:
        cost = 1 - parts[term.name] if term.is_similarity else parts[term.name]
        assert (cost > 0).all(), term.name
        expected = expected + weights[term.name] * cost
    torch.testing.assert_close(total, expected)
    assert set(parts) == set(objective.parts)


@pytest.mark.parametrize(
    ("pixel", "formula"),
    [
        ("mse", lambda p, target: (p - target) ** 2),
        ("charbonnier", lambda p, target: ((p - target) ** 2 + 1e-6).sqrt()),
        ("bce", lambda p, target: -(target * p.log() + (1 - target) * (1 - p).log())),
    ],
)
def test_the_reconstruction_loss_is_the_chosen_pixel_loss(pixel, formula):
    output, target = random_output()
    model = ["model.output=sigmoid"] if pixel == "bce" else []
    _, parts = build(f"loss.pixel={pixel}", *model)(output, target, HEIGHTS, Weights({}))
    p, t = (x[:, :, :20].double() for x in (output.reconstruction, target))
    expected = formula(p, t).mean(dim=(1, 2, 3))
    torch.testing.assert_close(parts["recon"].double(), expected, rtol=1e-5, atol=1e-6)


def test_kl_settings_are_applied():
    output, target = random_output()
    objective = build("beta.free_bits=0.8", "beta.capacity=1", "beta.reduction=sum")
    total, parts = objective(output, target, HEIGHTS, Weights({}, beta=2.0, capacity=3.0))
    posterior = torch.distributions.Normal(output.mu, (output.logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(total, 2 * (kl.clamp(min=0.8).sum(1) - 3).abs())
    torch.testing.assert_close(parts["kl"], kl_of(output))


def test_the_kl_includes_the_ladder():
    output, target = random_output(ladder=3)
    objective = build("beta.reduction=sum")
    total, parts = objective(output, target, HEIGHTS, Weights({}, beta=1.0))
    torch.testing.assert_close(parts["kl"], kl_of(output) + output.ladder.sum(1))
    torch.testing.assert_close(total, parts["kl"])


def test_a_float64_beta_leaves_the_losses_in_float32():
    output, target = random_output()
    beta = torch.tensor(0.3, dtype=torch.float64)
    total, _ = build()(output, target, HEIGHTS, Weights({"recon": 1.0}, beta=beta))
    expected, _ = build()(output, target, HEIGHTS, Weights({"recon": 1.0}, beta=0.3))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)


def test_shares_scale_the_loss_terms_and_not_the_kl():
    output, target = random_output()
    objective, weights = build(), Weights({"recon": 1.0, "ssim": 0.5}, beta=0.1)
    unscaled, parts = objective(output, target, HEIGHTS, weights)
    scaled, _ = objective(output, target, HEIGHTS, weights, torch.tensor([1.5, 0.5]))
    kl = 0.1 * parts["kl"] / (20 * 32)
    torch.testing.assert_close(scaled - kl, (unscaled - kl) * torch.tensor([1.5, 0.5]))


def test_half_precision_gives_the_float32_losses_within_its_rounding():
    output, target = random_output()
    weights = Weights({term.name: 1.0 for term in TERMS}, beta=1.0)
    _, expected = build(*ALL_TERMS)(output, target, HEIGHTS, weights)
    halved = VAEOutput(*(field.bfloat16() for field in output if field is not None))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, parts = build(*ALL_TERMS)(halved, target, HEIGHTS, weights)
    for name, value in expected.items():
        assert parts[name].dtype == torch.float32
        torch.testing.assert_close(
            parts[name], value, rtol=2**-7, atol=2**-7, equal_nan=name == "contrastive"
        )


def levels_output_of(target: torch.Tensor) -> VAEOutput:
    """Return an output with logits of six levels."""
    output, _ = random_output(ladder=2)
    generator = torch.Generator().manual_seed(3)
    return output._replace(logits=torch.randn(2, 6, *target.shape[2:], generator=generator))


def test_with_beta_1_the_loss_of_levels_is_the_evidence_bound():
    _, target = random_output()
    target = target / 10
    heights = torch.tensor([20, 13])
    target[1, :, 13:] = 0
    output = levels_output_of(target)
    objective = build("model.output=levels", "loss.pixel=nll")
    losses, parts = objective(output, target, heights, Weights({"recon": 1.0}, beta=1.0))
    pixels = 32 * heights
    nats = parts["recon"] * pixels + kl_of(output) + output.ladder.sum(dim=1)
    torch.testing.assert_close(losses * pixels, nats)
    bits = objective.bits_per_page(output, target, heights)
    torch.testing.assert_close(bits, nats / 0.6931471805599453)
    assert objective.is_likelihood
    assert not build().is_likelihood
    assert not build("model.output=sigmoid", "loss.pixel=bce").is_likelihood


def test_a_uniform_distribution_over_levels_costs_their_logarithm():
    _, target = random_output()
    output, _ = random_output()
    output = output._replace(logits=torch.zeros(2, 8, 32, 32))
    objective = build("model.output=levels", "loss.pixel=nll")
    bits = objective.bits_per_page(output, target / 10, HEIGHTS)
    torch.testing.assert_close(bits, 3 * 32 * 20 + kl_of(output) / 0.6931471805599453)
