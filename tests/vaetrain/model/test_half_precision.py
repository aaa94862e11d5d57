"""Forward and backward passes in fp16, bf16 and fp32 against float64, at small and large scales.

The references get inputs that are already rounded to the tested precision. A result has to be
finite, and as close as its precision allows, wherever the reference fits into its dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.engines.model_options import apply_options
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import build_discriminator
from vaetrain.gan.regularizers import RegularizerInput, lecam, r1
from vaetrain.losses.gradient_difference import gradient_difference
from vaetrain.losses.pixel import bce_with_logits, charbonnier, l1, levels_nll, mse
from vaetrain.losses.ssim import ms_ssim, ssim
from vaetrain.model import masked
from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import bounded, gaussian_kl, reparameterized
from vaetrain.model.masked import MaskedGroupNorm, PyramidPool, keep, rows_at
from vaetrain.model.vae import VAE, draw_noise

# Tolerated errors, as shares of the largest absolute value of the reference: some roundings of the
# result and of what is kept for the backward pass. MS-SSIM multiplies five powers of small values.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
SHAPE = (2, 8, 32, 16)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(result: Tensor, reference: Tensor, tolerance: float) -> None:
    limit = torch.finfo(result.dtype).max
    fits = reference.abs() < 0.9 * limit
    assert result[fits].isfinite().all()
    if not fits.any():
        return  # no value of the reference can be represented
    error = (result.double() - reference)[fits].abs().max()
    bound = tolerance * reference[fits].abs().max() + torch.finfo(result.dtype).smallest_normal
    assert error <= bound


def compare(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: list[Tensor],
    upstream: float,
) -> None:
    """Compare outputs and gradients; `inputs` are of the tested precision."""
    dtype = inputs[0].dtype
    inputs = [each.detach().requires_grad_() for each in inputs]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    result, expected = function(*inputs), reference(*exact)
    check(result, expected, TOLERANCE[result.dtype])
    gradient = (upstream * random(*result.shape, seed=9)).to(result.dtype)
    gradients = torch.autograd.grad(result, inputs, gradient)
    references = torch.autograd.grad(expected, exact, gradient.double())
    for own, other in zip(gradients, references, strict=True):
        check(own, other, TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("upstream", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_masked_norm(dtype, scale, upstream):
    rows = rows_at(torch.tensor([32, 32]), 32)
    weight, bias = 1 + 0.1 * random(8, seed=1), random(8, seed=2)

    def norm(x: Tensor) -> Tensor:
        return masked._GroupNorm.apply(x, weight.float(), bias.float(), 2, 1e-5, *rows)

    def reference(x: Tensor) -> Tensor:
        return F.group_norm(x, 2, weight.float().double(), bias.float().double(), 1e-5)

    compare(norm, reference, [(scale * random(*SHAPE)).to(dtype)], upstream)


@DTYPES
def test_masked_norm_of_values_whose_difference_from_the_mean_exceeds_fp16(dtype):
    x = torch.full(SHAPE, -6e4).to(dtype)
    x[:, :, :2] = 6e4
    rows = rows_at(torch.tensor([32, 32]), 32)
    norm = MaskedGroupNorm(8)
    compare(
        lambda x: norm(x, rows), lambda x: F.group_norm(x, 8, eps=norm.eps), [x], upstream=100.0
    )


@DTYPES
@pytest.mark.parametrize("upstream", [1e-3, 1.0, 1e3])
def test_gradients_of_the_masked_norms_parameters(dtype, upstream):
    rows = rows_at(torch.tensor([32, 32]), 32)
    x, gradient = random(*SHAPE).to(dtype), (upstream * random(*SHAPE, seed=9)).to(dtype)
    norm = MaskedGroupNorm(8)
    norm(x, rows).backward(gradient)
    normed = F.group_norm(x.double(), 8, eps=norm.eps)
    check(norm.weight.grad, (normed * gradient.double()).sum(dim=(0, 2, 3)), TOLERANCE[dtype])
    check(norm.bias.grad, gradient.double().sum(dim=(0, 2, 3)), 1e-5)


def cbam(seed: int) -> MaskedCBAM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedCBAM(8)


def check_large_maps(layer: nn.Module, dtype: torch.dtype, seed: int = 0) -> None:
    rows = rows_at(torch.tensor([32, 20]), 32)
    x = (1e4 * random(*SHAPE, seed=seed)).clamp(-5e4, 5e4).to(dtype)
    x = keep(x, rows).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result = layer(x, rows)
    assert result.isfinite().all()
    result.backward(torch.full_like(result, 0.1))
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@DTYPES
def test_attention_of_large_maps_is_finite_for_any_weights(dtype):
    # Gates in fp16 had gradients that were not finite for 24 of these 40 weights.
    for seed in range(40):
        check_large_maps(cbam(seed), dtype, seed)


@DTYPES
def test_pooling_of_large_maps_is_finite(dtype):
    check_large_maps(PyramidPool([1, 2, 3]), dtype)


@DTYPES
@pytest.mark.parametrize("upstream", [1e-3, 1.0, 1e3])
def test_pyramid_pooling(dtype, upstream):
    rows, pool = rows_at(torch.tensor([32, 20]), 32), PyramidPool([1, 2, 3])

    def reference(x: Tensor) -> Tensor:
        pooled = []
        for level in pool.levels:
            down = masked.bin_weights(rows.count, [level], 32).double()
            across = masked.bin_weights(torch.tensor([16.0]), [level], 16).double()
            bands = torch.einsum("bnh,bchw->bcnw", down, x)
            pooled.append((bands @ across[0].T).flatten(1))
        return torch.cat(pooled, dim=1)

    x = keep(random(*SHAPE), rows).to(dtype)
    compare(lambda x: pool(x, rows), reference, [x], upstream)


@DTYPES
@pytest.mark.parametrize("scale", [1e-2, 1.0, 10.0])
@pytest.mark.parametrize("is_autocast", [False, True])
def test_gaussians_are_computed_in_fp32(dtype, scale, is_autocast):
    mu, logvar, eps = ((scale * random(3, 64))[i].to(dtype) for i in range(3))
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    with torch.autocast("cpu", half, enabled=is_autocast):
        results = bounded(logvar), reparameterized(mu, logvar, eps), gaussian_kl(mu, logvar)
        compare(bounded, lambda x: 12 * torch.tanh(x / 12), [logvar], 1.0)
        compare(reparameterized, lambda m, v, e: m + (v / 2).exp() * e, [mu, logvar, eps], 1.0)
        compare(gaussian_kl, lambda m, v: 0.5 * (m.square() + v.expm1() - v), [mu, logvar], 1.0)
    assert {result.dtype for result in results} == {torch.float32}


@DTYPES
@pytest.mark.parametrize("contrast", [1e-2, 1.0])
@pytest.mark.parametrize(
    "loss", [ssim, ms_ssim, gradient_difference, l1, mse, charbonnier, bce_with_logits]
)
def test_losses(loss, contrast, dtype):
    heights = torch.tensor([32, 25])
    images = contrast * random(2, 2, 1, 32, 24).sigmoid()
    prediction, target = (
        keep(images[0], rows_at(heights, 32)),
        keep(images[1], rows_at(heights, 32)),
    )
    target = target.to(dtype)
    compare(
        lambda x: loss(x, target, heights),
        lambda x: loss(x, target.double(), heights),
        [prediction.to(dtype)],
        1.0,
    )


@DTYPES
def test_likelihood_of_levels(dtype):
    heights = torch.tensor([32, 25])
    target = keep(random(2, 1, 32, 24).sigmoid() / 4, rows_at(heights, 32)).float()
    logits = 3 * random(2, 8, 32, 24, seed=1)
    compare(
        lambda x: levels_nll(x, target, heights),
        lambda x: levels_nll(x, target.double(), heights),
        [logits.to(dtype)],
        1.0,
    )


# In training the discriminator runs outside autocast on fp32 pages. With half-precision pages the
# gradient at the pages would be below the smallest normal number of fp16.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["light", "patch"])
def test_regularizers_of_the_discriminator(kind, dtype):
    torch.manual_seed(0)
    discriminator = build_discriminator(GanConfig(discriminator=kind, channels=4))
    heights = torch.tensor([32, 25])
    images = random(2, 2, 1, 32, 24).sigmoid().to(dtype)

    def penalties(kind: torch.dtype) -> list[Tensor]:
        module = discriminator.to(kind)
        real = (images[0].double() if kind == torch.float64 else images[0]).requires_grad_()
        given = images[1].to(real.dtype)
        outputs = module(real, heights), module(given, heights)
        x = RegularizerInput(real, *outputs, torch.tensor(0.1), torch.tensor(-0.1))
        return [r1(x), lecam(x), outputs[0].page_mean(outputs[0].logits)]

    results = [penalty.detach() for penalty in penalties(torch.float32)]
    for result, reference in zip(results, penalties(torch.float64), strict=True):
        # The images' gradient has their precision.
        check(result.float(), reference, max(1e-4, TOLERANCE[dtype]))


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_bf16_adds_the_coarse_page_and_the_details_in_fp32(latent):
    torch.manual_seed(0)
    model = VAE(ModelConfig(latent_dim=8, latent=latent), 64, 64)
    for parameter in (*model.linear.parameters(), *model.decoder.add.parameters()):
        nn.init.normal_(parameter, std=0.3)
    parts, decoder = [], model.decoder.forward
    model.decoder.forward = lambda *args: parts.append(decoder(*args)) or parts[-1]
    apply_options(model, torch.device("cpu"), precision="bf16")
    heights = torch.tensor([64, 40])
    images = keep(torch.rand(2, 1, 64, 64), rows_at(heights, 64))
    noise = draw_noise(model, torch.tensor([1, 2]), (64, 64), gate=1.0, dropout=0.0)
    page = model(images, heights, noise).reconstruction
    coarse, added, _ = parts[0]
    assert coarse.dtype == page.dtype == torch.float32
    assert coarse.any()
    assert added.any()
    assert (page.double() - (coarse.double() + added.double())).abs().max() < 1e-6
