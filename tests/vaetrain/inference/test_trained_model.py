"""Sampling and decoding with a trained model."""

import numpy as np
import torch

from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior, build_flow


def test_prior_samples_are_standard_normal(run_folder, monkeypatch):
    latents = []

    def decode(self: VAE, z: torch.Tensor, heights: torch.Tensor, size, ladder) -> torch.Tensor:
        latents.append(z)
        return torch.zeros(len(z), 1, *size)

    monkeypatch.setattr(VAE, "decode_padded", decode)
    trained = TrainedModel(run_folder / "run")
    count = sum(len(images) for images, _ in trained.sample(1024, MAX_HEIGHT, seed=0))
    z = torch.cat(latents)
    dimensions = trained.model.latent_dim
    assert count == 1024
    assert z.shape == (1024, dimensions)
    assert z.mean(0).abs().max() < 0.15
    assert (z.std(0) - 1).abs().max() < 0.1
    assert (z.T.corrcoef() - torch.eye(dimensions)).abs().max() < 0.15


def test_decoded_pictures_have_the_heights_of_their_pages(run_folder):
    trained = TrainedModel(run_folder / "run")
    z = torch.randn(3, trained.model.latent_dim, generator=torch.Generator().manual_seed(0))
    heights = torch.tensor([5, 37, MAX_HEIGHT])
    pictures = trained.decode(z, heights)
    assert [picture.shape for picture in pictures] == [(int(h), WIDTH) for h in heights]
    (alone,) = trained.decode(z[1:2], heights[1:2])
    assert np.abs(alone.astype(int) - pictures[1]).max() <= 1  # rounding differs with padding


def test_digests_tell_which_part_of_a_model_has_changed(run_folder):
    trained = TrainedModel(run_folder / "run")
    before = trained.digests()
    assert set(before) == {"model"}  # an unfinished run
    assert TrainedModel(run_folder / "run").digests() == before
    flow = build_flow((trained.model.latent_dim,), 0, MAX_HEIGHT, width=8, blocks=1)
    trained.prior = Prior(flow, torch.tensor([MAX_HEIGHT]), torch.tensor([0]), [])
    with_prior = trained.digests()
    assert with_prior == before | {"prior": with_prior["prior"]}
    flow.mean[0] += 1
    next(trained.model.parameters()).data.view(-1)[0] += 1
    changed = trained.digests()
    assert all(changed[name] != with_prior[name] for name in ("model", "prior"))
