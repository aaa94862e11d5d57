"""Shapes of the latent."""

import torch

from vaetrain.model.latents import SpatialLatent, VectorLatent

HEIGHTS = torch.tensor([16, 40])


def test_a_vector_latent_does_not_depend_on_the_size_of_a_page():
    latent = VectorLatent(5)
    assert latent.shape((48, 32)) == (5,)
    z = torch.randn(2, 5)
    assert torch.equal(latent.clear_padding(z, HEIGHTS), z)
    assert torch.equal(latent.embed(z, HEIGHTS), z)


def test_a_spatial_latent_has_a_vector_for_each_16_pixels_of_the_page():
    latent = SpatialLatent(5)
    assert latent.shape((48, 32)) == (5, 3, 2)
    z = latent.clear_padding(torch.randn(2, 5, 3, 2), HEIGHTS)
    assert (z[0, :, 1:] == 0).all()
    assert (z[1] != 0).all()
    means = torch.stack([z[0, :, :1].mean(dim=(1, 2)), z[1].mean(dim=(1, 2))])
    torch.testing.assert_close(latent.embed(z, HEIGHTS), means)
