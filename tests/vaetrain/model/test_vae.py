"""The VAE as a whole, in every architecture."""

import pytest
import torch

from tests.support.models import ARCHITECTURES, architecture_name, noise_for, settings_of
from tests.vaetrain.model.pages import LATENT_DIM, WIDTH, build_model, padded, random_pages
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.model_options import apply_options
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE, Noise

HEIGHTS = [64, 65, 100, 333, 511, 512, 1000, 2047, 2048]
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=architecture_name)
# At nine heights, DenseNets take up to ten seconds each.
each_architecture_at_all_heights = pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(each, marks=pytest.mark.slow)
        if architecture_name(each).startswith("densenet") and number % 4 != 0
        else each
        for number, each in enumerate(ARCHITECTURES)
    ],
    ids=architecture_name,
)


@each_architecture_at_all_heights
@torch.no_grad()
def test_a_page_in_a_padded_batch_has_the_outputs_of_the_page_alone(architecture):
    model = build_model(**architecture)
    images, heights = random_pages(HEIGHTS)
    ids = list(range(len(HEIGHTS)))
    batch = model(images, heights, noise_for(model, tuple(images.shape[2:]), ids))
    for number, height in enumerate(HEIGHTS):
        rows, one = padded(height), slice(number, number + 1)
        noise = noise_for(model, (rows, WIDTH), [number])
        alone = model(images[one, :, :rows], heights[one], noise)
        for result, of_batch in ((alone.mu, batch.mu), (alone.logvar, batch.logvar)):
            cropped = of_batch[one, :, : rows // VAE.stride] if model.is_spatial else of_batch[one]
            torch.testing.assert_close(result, cropped, rtol=0, atol=1e-5)
        cropped = batch.reconstruction[one, :, :rows]
        torch.testing.assert_close(alone.reconstruction, cropped, rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.ladder, batch.ladder[one], rtol=1e-5, atol=1e-5)
        assert (batch.reconstruction[number, :, height:] == 0).all()
    assert model.embed(batch.mu, heights).std() > 0.05


@each_architecture
def test_two_micro_batches_have_the_gradient_of_one_batch(architecture):
    model = build_model(**architecture)
    objective = Objective(load_experiment(None, settings_of(architecture)))
    images, heights = random_pages([64, 100, 333, 320])
    weights = Weights({"recon": 1.0, "ssim": 0.1}, beta=1.0)

    def gradients(micro_batches: list[list[int]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for ids in micro_batches:
            rows = padded(int(heights[ids].max()))  # a micro batch of low pages is padded less
            pages, noise = images[ids, :, :rows], noise_for(model, (rows, WIDTH), ids)
            losses, _ = objective(model(pages, heights[ids], noise), pages, heights[ids], weights)
            (losses.sum() / 4).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected, result = gradients([[0, 1, 2, 3]]), gradients([[0, 1], [2, 3]])
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=5e-6 * largest)


@each_architecture
def test_every_parameter_has_a_gradient(architecture):
    model = build_model(**architecture)
    images, heights = random_pages([64, 300])
    output = model(images, heights, noise_for(model, tuple(images.shape[2:]), [0, 1]))
    (output.reconstruction.square().sum() + output.ladder.sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("kind", ["linear", "levels"])
@pytest.mark.parametrize("option", ["channels_last", "checkpoint_activations"])
def test_options_do_not_change_gradients(option, kind):
    images, heights = random_pages([64, 100])
    gradients = []
    for is_on in (False, True):
        model = build_model(skips="hierarchical", output=kind)
        apply_options(model, torch.device("cpu"), **{option: is_on})
        output = model(images, heights, noise_for(model, tuple(images.shape[2:]), [0, 1]))
        output.reconstruction.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_sigmoid_output_is_the_sigmoid_of_its_logits_and_zero_below_the_page():
    model = build_model(output="sigmoid")
    images, heights = random_pages([64, 100])
    noise = noise_for(model, tuple(images.shape[2:]), [0, 1])
    output = model(images, heights, noise)
    page = output.reconstruction
    assert (page[0, :, 64:] == 0).all()
    torch.testing.assert_close(page[1, :, :100], torch.sigmoid(output.logits[1, :, :100]))
    linear = build_model()(images, heights, noise)
    assert not torch.allclose(linear.reconstruction, page)


@torch.no_grad()
def test_every_row_of_a_page_changes_its_posterior():
    model = build_model()
    images, heights = random_pages([512])
    mu, _ = model.encode(images, heights)
    for row in (0, 200, 511):
        changed = images.clone()
        changed[0, 0, row] = 1 - changed[0, 0, row]
        assert (model.encode(changed, heights)[0] - mu).abs().max() > 1e-4


@torch.no_grad()
def test_the_decoded_latent_is_a_sample_of_the_posterior():
    model = build_model()
    images, heights = random_pages([64])
    gate = torch.ones(1)
    at_mean = model(images, heights, Noise(torch.zeros(1, LATENT_DIM), (), gate))
    sampled = model(images, heights, Noise(torch.ones(1, LATENT_DIM), (), gate))
    z = at_mean.mu + torch.exp(0.5 * at_mean.logvar)
    expected = model.decode(z, heights, tuple(images.shape[2:]))
    torch.testing.assert_close(sampled.reconstruction, expected)
    assert not torch.equal(at_mean.reconstruction, sampled.reconstruction)


def test_skip_dropout_closes_the_gate_of_its_share_of_pages():
    model = VAE(ModelConfig(skips="gated", latent_dim=4), WIDTH, 64)
    gate = noise_for(model, (16, WIDTH), list(range(4000)), gate=0.8, dropout=0.3).gate
    assert gate.unique().tolist() == pytest.approx([0.0, 0.8])
    assert float((gate == 0).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_noise_of_latent_and_ladder_levels_is_standard_normal_and_independent():
    model = build_model(skips="hierarchical", latent="spatial")
    noise = noise_for(model, (512, WIDTH), [0])
    tensors = (noise.eps, *noise.ladder)
    correlations = torch.corrcoef(torch.stack([eps[0, 0, :20, :4].flatten() for eps in tensors]))
    assert correlations.fill_diagonal_(0).abs().max() < 0.4
    for eps in tensors:
        assert float(eps.mean()) == pytest.approx(0, abs=5 / eps.numel() ** 0.5)
        assert float(eps.std()) == pytest.approx(1, abs=5 / eps.numel() ** 0.5)
