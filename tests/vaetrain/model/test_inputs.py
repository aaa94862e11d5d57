"""Pages and latents of users: padded where that changes nothing, else refused."""

import re

import pytest
import torch

from tests.vaetrain.model.pages import LATENT_DIM, WIDTH, build_model, random_pages

NAN, INF = float("nan"), float("inf")


def changed(value: float) -> torch.Tensor:
    """Return a page with one value that is not finite."""
    page = torch.zeros(1, 1, 32, WIDTH)
    page[0, 0, 3, 4] = value
    return page


@pytest.mark.parametrize("latent", ["vector", "spatial"])
@pytest.mark.parametrize("rows", [1, 15, 17, 100])
@torch.no_grad()
def test_any_number_of_rows_gives_the_results_of_the_padded_page(latent, rows):
    model = build_model(latent=latent)
    padded = -(-rows // 16) * 16
    images, heights = random_pages([rows])
    images = torch.nn.functional.pad(images, (0, 0, 0, max(0, padded - images.shape[2])))
    images = images[:, :, :padded]
    mu, logvar = model.encode(images[:, :, :rows], heights)
    expected = model.posterior(images, heights)
    assert torch.equal(mu, expected.mu)
    assert torch.equal(logvar, expected.logvar)
    page = model.decode(mu, heights, (rows, WIDTH))
    assert page.shape == (1, 1, rows, WIDTH)
    assert torch.equal(page, model.decode(mu, heights, (padded, WIDTH))[:, :, :rows])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 32, WIDTH + 16), f"images: the shape is (1, 1, 32, {WIDTH + 16}), must"),
        (torch.zeros(1, 1, 32, WIDTH - 1), f"(B, 1, H, {WIDTH}) with B and H at least 1"),
        (torch.zeros(1, 3, 32, WIDTH), f"the shape is (1, 3, 32, {WIDTH}), must be (B, 1, H"),
        (torch.zeros(32, WIDTH), f"the shape is (32, {WIDTH}), must be (B, 1, H"),
        (torch.zeros(0, 1, 32, WIDTH), "the shape is (0, 1, 32"),
        (torch.zeros(1, 1, 0, WIDTH), "the shape is (1, 1, 0"),
        (torch.zeros(1, 1, 32, WIDTH, dtype=torch.uint8), "torch.uint8, must be (B, 1, H"),
        (torch.zeros(1, 1, 32, WIDTH, dtype=torch.long), "values in [0, 1]; divide bytes by 255"),
        (changed(NAN), f"of shape (1, 1, 32, {WIDTH}) have values that are not finite"),
        (changed(-INF), "values that are not finite"),
    ],
)
def test_other_images_are_refused_with_shape_and_limits(images, message):
    heights = torch.full((max(1, len(images)),), 32)
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        build_model().encode(images, heights)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        (torch.tensor([32]), "heights: the shape is (1,), must be (2,), integers from 1 to 32"),
        (torch.tensor(32), "the shape is (), must be (2,)"),
        (torch.tensor([[32], [32]]), "the shape is (2, 1), must be (2,)"),
        (torch.tensor([32.0, 32.0]), "are torch.float32, must be (2,), integers"),
        (torch.tensor([True, True]), "are torch.bool"),
        (torch.tensor([0, 32]), "heights: are 0 to 32, must be (2,), integers from 1 to 32"),
        (torch.tensor([5, 33]), "are 5 to 33"),
        (torch.tensor([-1, 3]), "are -1 to 3"),
    ],
)
def test_other_heights_are_refused(heights, message):
    model = build_model()
    with pytest.raises(ValueError, match=re.escape(message)):
        model.encode(torch.zeros(2, 1, 32, WIDTH), heights)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.decode(torch.zeros(2, LATENT_DIM), heights, (32, WIDTH))


@pytest.mark.parametrize(
    ("latent", "z", "size", "message"),
    [
        (
            "vector",
            torch.zeros(1, LATENT_DIM + 1),
            (32, WIDTH),
            f"z: the shape is (1, {LATENT_DIM + 1})",
        ),
        ("vector", torch.zeros(0, LATENT_DIM), (32, WIDTH), f"must be (B, {LATENT_DIM}) for pages"),
        ("vector", torch.zeros(LATENT_DIM), (32, WIDTH), f"z: the shape is ({LATENT_DIM},), must"),
        ("vector", torch.full((1, LATENT_DIM), NAN), (32, WIDTH), "z: of shape (1, "),
        ("vector", torch.zeros(1, LATENT_DIM).long(), (32, WIDTH), "z: is torch.int64, must be"),
        (
            "vector",
            torch.zeros(1, LATENT_DIM),
            (32, WIDTH + 1),
            f"size: is (32, {WIDTH + 1}), must",
        ),
        ("vector", torch.zeros(1, LATENT_DIM), (0, WIDTH), f"must be (H, {WIDTH}) with H at least"),
        (
            "spatial",
            torch.zeros(1, LATENT_DIM, 3, WIDTH // 16),
            (32, WIDTH),
            f"must be (B, {LATENT_DIM}, 2, {WIDTH // 16}) for pages of 32 x {WIDTH}",
        ),
    ],
)
def test_other_latents_are_refused(latent, z, size, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        build_model(latent=latent).decode(z, torch.tensor([32]), size)
    assert "\n" not in str(refusal.value)
