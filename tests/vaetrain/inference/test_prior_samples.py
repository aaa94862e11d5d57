"""Noise of a ladder's levels: of samples, and of interpolations."""

import torch

from shards.randomness import sample_keys
from tests.vaetrain.model.pages import WIDTH, build_model
from vaetrain.inference.prior_samples import level_noise, path_noise

SIZE = (64, WIDTH)


def test_samples_have_noise_of_their_own_and_steps_of_a_path_share_it():
    model = build_model(skips="hierarchical")
    numbers = torch.arange(3)
    samples = level_noise(model, sample_keys(0, 0 * numbers, numbers, "prior"), SIZE)
    path = path_noise(model, 3, SIZE)
    assert len(samples) == len(path) == model.ladder_levels
    for level, of_path in zip(samples, path, strict=True):
        assert not torch.equal(level[0], level[1])
        assert torch.equal(of_path[0], of_path[2])
        assert float(of_path.std()) > 0.5


def test_a_model_without_a_ladder_needs_no_noise():
    assert path_noise(build_model(), 3, SIZE) == ()
