"""Forward and backward passes in fp16, bf16 and fp32 against float64, at small and large scales.

The references get inputs that are already rounded to the tested precision. A result has to be
finite, and as close as its precision allows, wherever the reference fits into its dtype. Gradients
of 1e-6 are below fp16's smallest normal number, and those of 1e4 overflow in products.
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
from vaetrain.losses.contrastive import info_nce, injected, values_and_gradients
from vaetrain.losses.gradient_difference import gradient_difference
from vaetrain.losses.perceptual import unit_length
from vaetrain.losses.pixel import bce_with_logits, charbonnier, l1, levels_nll, mse
from vaetrain.losses.ssim import ms_ssim, ssim
from vaetrain.model import masked
from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import bounded, gaussian_kl, reparameterized
from vaetrain.model.layers import Conv2d, EqualLinear
from vaetrain.model.masked import MaskedGroupNorm, PyramidPool, keep, rows_at
from vaetrain.model.vae import VAE, draw_noise

# Tolerated errors, as shares of the largest absolute value of the reference: some roundings of the
# result and of what is kept for the backward pass. MS-SSIM multiplies five powers of small values.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
UPSTREAM = pytest.mark.parametrize("upstream", [1e-6, 1e-3, 1.0, 1e4])
SHAPE = (2, 8, 32, 16)
HEIGHTS = torch.tensor([32, 20])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(result: Tensor, reference: Tensor, tolerance: float) -> None:
    limit = torch.finfo(result.dtype).max
    fits = reference.abs() < 0.9 * limit
    assert result[fits].isfinite().all()
    if not fits.any():
        return  # no value of the reference can be represented
    error = (result.double() - reference)[fits].abs().max()
    number = torch.finfo(result.dtype)
    smallest = number.smallest_normal * number.eps  # the distance of numbers around 0
    assert error <= tolerance * reference[fits].abs().max() + smallest


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


def norm_of_each_page(x: Tensor, *parameters: Tensor) -> Tensor:
    pages = []
    for page, height in zip(x, HEIGHTS.tolist(), strict=True):
        normed = F.group_norm(page[None, :, :height], 2, *parameters, 1e-5)
        pages.append(F.pad(normed, (0, 0, 0, x.shape[2] - height)))
    return torch.cat(pages)


# A mean far above the deviation must be exact, as it is subtracted.
@DTYPES
@UPSTREAM
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_masked_norm(dtype, scale, mean, upstream):
    rows = rows_at(HEIGHTS, 32)
    x = keep(scale * (mean + random(*SHAPE)), rows).to(dtype)
    parameters = (1 + 0.1 * random(8, seed=1)).float(), random(8, seed=2).float()

    def norm(x: Tensor, *parameters: Tensor) -> Tensor:
        return masked._GroupNorm.apply(x, *parameters, 2, 1e-5, *rows)

    compare(norm, norm_of_each_page, [x, *parameters], upstream)


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
@UPSTREAM
def test_gradients_of_the_masked_norms_parameters(dtype, upstream):
    rows = rows_at(torch.tensor([32, 32]), 32)
    x, gradient = random(*SHAPE).to(dtype), (upstream * random(*SHAPE, seed=9)).to(dtype)
    norm = MaskedGroupNorm(8)
    norm(x, rows).backward(gradient)
    normed = F.group_norm(x.double(), 8, eps=norm.eps)
    check(norm.weight.grad, (normed * gradient.double()).sum(dim=(0, 2, 3)), TOLERANCE[dtype])
    check(norm.bias.grad, gradient.double().sum(dim=(0, 2, 3)), 1e-5)


def gated_pages(x: Tensor, *parameters: Tensor) -> Tensor:
    squeeze, squeeze_bias, excite, excite_bias, locate, locate_bias = parameters
    pages = []
    for page, height in zip(x, HEIGHTS.tolist(), strict=True):
        page = page[None, :, :height]
        logits = [
            F.linear(F.linear(moment, squeeze, squeeze_bias).relu(), excite, excite_bias)
            for moment in (page.mean(dim=(2, 3)), page.amax(dim=(2, 3)))
        ]
        page = page * sum(logits).sigmoid()[:, :, None, None]
        profile = torch.cat([page.mean(1, keepdim=True), page.amax(1, keepdim=True)], dim=1)
        padding = locate.shape[2] // 2
        page = page * F.conv2d(profile, locate, locate_bias, padding=padding).sigmoid()
        pages.append(F.pad(page, (0, 0, 0, x.shape[2] - height)))
    return torch.cat(pages)


@DTYPES
@UPSTREAM
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_attention(dtype, scale, upstream):
    layer, rows = cbam(0), rows_at(HEIGHTS, 32)
    with torch.no_grad():  # gates of any scale are neither 0 nor 1
        layer.squeeze.weight /= scale
        layer.locate.weight /= scale
    # One channel is the highest at each pixel, so that rounding does not change which one it is.
    channel = (torch.arange(32)[:, None] + torch.arange(16)) % 8
    x = 0.2 * random(*SHAPE) + 2 * F.one_hot(channel, 8).permute(2, 0, 1)
    x = keep(scale * x, rows).to(dtype)
    names = [name for name, _ in layer.named_parameters()]

    def gated(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        # The norm before it ignores gradients below the pages.
        return torch.func.functional_call(layer, given, (keep(x, rows), rows))

    compare(gated, gated_pages, [x, *layer.parameters()], upstream)


# Pairs of scales of the input and the gradient whose product fp16 holds, as weights' gradients
# have the precision of autocast.
SCALES = pytest.mark.parametrize(
    ("scale", "upstream"), [(1e-2, 1.0), (1.0, 1e-2), (1.0, 1.0), (30.0, 1e-2), (1e-2, 1e2)]
)


@DTYPES
@SCALES
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_with_a_page(kernel, scale, upstream, dtype):
    torch.manual_seed(0)
    layer, rows = Conv2d(6, 4, kernel, padding=kernel // 2), rows_at(torch.tensor([32, 32]), 32)
    maps, page = (scale * random(2, 5, 16, 8)).to(dtype), (scale * random(2, 1, 32, 16)).to(dtype)

    def autocast(maps: Tensor, page: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return torch.func.functional_call(layer, parameters, (maps, page, rows))

    def reference(maps: Tensor, page: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        both = torch.cat([F.interpolate(maps, scale_factor=2), page], dim=1)
        return F.conv2d(both, weight, bias, padding=kernel // 2)

    compare(autocast, reference, [maps, page, layer.weight, layer.bias], upstream)


@DTYPES
@SCALES
def test_linear_layers_of_thousands_of_inputs(scale, upstream, dtype):
    torch.manual_seed(0)
    layer, x = EqualLinear(4096, 16), (scale * random(8, 4096)).to(dtype)

    def autocast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias) / 64

    compare(autocast, reference, [x, layer.weight, layer.bias], upstream)


def cbam(seed: int) -> MaskedCBAM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedCBAM(8)


def check_large_maps(layer: nn.Module, dtype: torch.dtype, seed: int = 0) -> None:
    rows = rows_at(HEIGHTS, 32)
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
@UPSTREAM
def test_pyramid_pooling(dtype, upstream):
    rows, pool = rows_at(HEIGHTS, 32), PyramidPool([1, 2, 3])

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


def plain_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mu.square() + logvar.expm1() - logvar)


@DTYPES
@pytest.mark.parametrize("scale", [1e-2, 1.0, 10.0])
@pytest.mark.parametrize("is_autocast", [False, True])
@UPSTREAM
def test_gaussians_are_computed_in_fp32(dtype, scale, is_autocast, upstream):
    mu, logvar, eps = ((scale * random(3, 64))[i].to(dtype) for i in range(3))
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    with torch.autocast("cpu", half, enabled=is_autocast):
        results = bounded(logvar), reparameterized(mu, logvar, eps), gaussian_kl(mu, logvar)
        compare(bounded, lambda x: 12 * torch.tanh(x / 12), [logvar], upstream)
        compare(reparameterized, lambda m, v, e: m + (v / 2).exp() * e, [mu, logvar, eps], upstream)
        compare(gaussian_kl, plain_kl, [mu, logvar], upstream)
        compare(gaussian_kl, plain_kl, [(1e3 * mu).clamp(-6e4, 6e4), logvar], upstream)
    assert {result.dtype for result in results} == {torch.float32}


@DTYPES
@pytest.mark.parametrize("contrast", [1e-2, 1.0])
@pytest.mark.parametrize(
    "loss", [ssim, ms_ssim, gradient_difference, l1, mse, charbonnier, bce_with_logits]
)
@pytest.mark.parametrize("upstream", [1e-6, 1.0, 2.0**16])  # the last is fp16's first loss scale
def test_losses(loss, contrast, dtype, upstream):
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
        upstream,
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


@DTYPES
@UPSTREAM
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_contrastive_loss(dtype, scale, upstream):
    """Its own gradient is float64; a micro batch's encodings have the precision of autocast."""
    views, templates = scale * random(2, 6, 16), torch.tensor([0, 0, 1, -1, 2, 3])
    values, gradients = values_and_gradients(views, templates)
    exact = views.clone().requires_grad_()
    losses = info_nce(exact, templates)
    check(values, losses.detach(), 1e-6)
    check(gradients, *torch.autograd.grad(losses.sum(), exact), 1e-6)

    def given(views: Tensor) -> Tensor:
        return injected(values, gradients, views)

    def reference(views: Tensor) -> Tensor:
        return injected(values.double(), gradients.double(), views)

    compare(given, reference, [views.to(dtype)], upstream)


@UPSTREAM
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e15])
def test_features_of_unit_length(scale, upstream):
    """Perceptual distances are computed outside of autocast, in fp32."""
    compare(unit_length, unit_length, [(scale * random(*SHAPE)).float()], upstream)


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
