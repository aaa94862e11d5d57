"""Models with torch's layers equal masked ones without padding, and differ with it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.support.plain_loop import textbook, unmasked
from shards.randomness import sample_keys
from vaetrain.model import layers
from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import MaskedGroupNorm, PyramidPool
from vaetrain.model.vae import VAE, draw_noise

ROWS, WIDTH = 64, 32


@pytest.mark.parametrize("replace", [unmasked, textbook])
@pytest.mark.parametrize("skips", ["none", "gated"])
def test_replaced_model_equals_the_masked_one_without_padding(skips, replace):
    torch.manual_seed(0)
    config = ModelConfig(attention="cbam", skips=skips, latent_dim=8, pyramid=[1, 2])
    masked, plain = VAE(config, WIDTH, ROWS), VAE(config, WIDTH, ROWS)
    for parameter in masked.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(masked.state_dict())
    replaced = replace(plain)
    gone = (MaskedCBAM, MaskedGroupNorm, PyramidPool)
    gone += (layers.Conv2d,) if replace is textbook else ()
    assert not any(isinstance(module, gone) for module in plain.modules())
    images, ids = torch.rand(3, 1, ROWS, WIDTH), torch.arange(3)
    noise = draw_noise(masked, sample_keys(0, ids, ids, "eps"), (ROWS, WIDTH), 1.0, 0.0)
    full = torch.full((3,), ROWS)
    expected = masked(images, full, noise)
    with replaced:
        found = plain(images, full, noise)
    torch.testing.assert_close(expected.reconstruction, found.reconstruction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(expected.mu, found.mu, atol=1e-4, rtol=1e-4)
    expected.reconstruction.square().sum().backward()
    found.reconstruction.square().sum().backward()
    for (name, one), (_, other) in zip(
        masked.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)

    low = torch.tensor([ROWS, 20, 5])
    with replaced:
        found = plain(images, low, noise)
    assert found.reconstruction[2, :, 5:].abs().sum() > 0  # the padding is not masked
    assert masked(images, low, noise).reconstruction[2, :, 5:].abs().sum() == 0
