"""In torch's layers a model is the same where no page is padded, and another where one is."""

from __future__ import annotations

import pytest
import torch

from benchmarks.support.resident import textbook, unmasked
from shards.randomness import sample_keys
from vaetrain.model import blocks
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import MaskedCBAM, MaskedGroupNorm, PyramidPool
from vaetrain.model.vae import VAE, draw_noise

ROWS, WIDTH = 64, 32


@pytest.mark.parametrize("change", [unmasked, textbook])
@pytest.mark.parametrize("skips", ["none", "gated"])
def test_our_layers_are_all_that_is_gone(skips, change):
    torch.manual_seed(0)
    config = ModelConfig(attention="cbam", skips=skips, latent_dim=8, pyramid=[1, 2])
    masked, plain = VAE(config, WIDTH, ROWS), VAE(config, WIDTH, ROWS)
    for parameter in masked.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(masked.state_dict())
    changed = change(plain)
    gone = (MaskedCBAM, MaskedGroupNorm, PyramidPool)
    gone += (blocks.Conv2d,) if change is textbook else ()
    assert not any(isinstance(module, gone) for module in plain.modules())
    images, ids = torch.rand(3, 1, ROWS, WIDTH), torch.arange(3)
    noise = draw_noise(masked, sample_keys(0, ids, ids, "eps"), (ROWS, WIDTH), 1.0, 0.0)
    full = torch.full((3,), ROWS)
    ours = masked(images, full, noise)
    with changed:
        theirs = plain(images, full, noise)
    torch.testing.assert_close(ours.reconstruction, theirs.reconstruction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.mu, theirs.mu, atol=1e-4, rtol=1e-4)
    ours.reconstruction.square().sum().backward()
    theirs.reconstruction.square().sum().backward()
    for (name, one), (_, other) in zip(
        masked.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3, msg=name)

    low = torch.tensor([ROWS, 20, 5])
    with changed:
        theirs = plain(images, low, noise)
    assert theirs.reconstruction[2, :, 5:].abs().sum() > 0  # nothing below the page is cleared
    assert masked(images, low, noise).reconstruction[2, :, 5:].abs().sum() == 0
