"""Geometry against kornia, torchvision and formulas of its own."""

import kornia.geometry.transform as kornia
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as torchvision
from torch import Tensor

from tests.vaetrain.augmentation.sample_batches import (
    HEIGHTS,
    WIDTH,
    a_batch,
    a_picture,
    as_pictures,
    drawn,
    only,
)
from vaetrain.augmentation.boxes import transform
from vaetrain.augmentation.warp import free, perspective, resample, rotation, upright

BILINEAR = torchvision.InterpolationMode.BILINEAR
ROUNDING = 2.0**-12
"""How far a resampled value may lie from an oracle's: our source positions are whole multiples of
2^-12 pixels, so half of that off along either axis, where a value changes by at most 1 a pixel."""


def differs(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def kornias(picture: Tensor, homography: Tensor) -> Tensor:
    """kornia's warp by a homography between coordinates in which a pixel's centre is at a half."""
    shift = torch.eye(3).double()
    shift[:2, 2] = 0.5
    by_centres = torch.linalg.inv(shift) @ homography @ shift
    return kornia.warp_perspective(picture.double(), by_centres, tuple(picture.shape[2:])).float()


@pytest.mark.parametrize("height", [48, 63, 64])
@pytest.mark.parametrize("degrees", [-30.0, 0.3, 5.0, 33.0, 90.0])
def test_rotation_is_torchvisions_and_kornias(degrees, height):
    picture, heights = a_picture(height), torch.tensor([height])
    matrix = rotation(torch.tensor([degrees]), torch.tensor([[WIDTH / 2, height / 2]]))
    ours = resample(picture, matrix, heights)
    assert differs(ours, torchvision.rotate(picture, -degrees, BILINEAR)) < ROUNDING
    centre = torch.tensor([[(WIDTH - 1) / 2, (height - 1) / 2]])  # kornia counts from centres
    theirs = kornia.rotate(picture, torch.tensor([-degrees]), center=centre)
    assert differs(ours, theirs) < ROUNDING


INWARD = [
    [[6.0, 3.0], [2.0, 5.0], [8.0, 1.0], [4.0, 7.0]],
    [[0.0, 0.0], [9.0, 14.0], [0.0, 0.0], [0.0, 0.0]],
]


def corners_after(inward: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """A page's corners, clockwise from the upper left, and where they move: (1, 4, 2) each."""
    corners = torch.tensor([[[0, 0], [WIDTH, 0], [WIDTH, height], [0, height]]]).double()
    return corners, corners + torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * inward


@pytest.mark.parametrize("height", [48, 64])
@pytest.mark.parametrize("inward", INWARD)
def test_perspective_is_torchvisions_and_kornias(inward, height):
    inward = torch.tensor([inward])
    picture, heights = a_picture(height), torch.tensor([height])
    matrix = perspective(inward, torch.tensor([[WIDTH, height]]).double())
    ours = resample(picture, matrix, heights)
    corners, moved = corners_after(inward, height)
    theirs = torchvision.perspective(
        picture, corners[0].tolist(), moved[0].tolist(), interpolation=BILINEAR
    )
    assert differs(ours, theirs) < ROUNDING
    homography = kornia.get_perspective_transform(corners, moved)
    torch.testing.assert_close(matrix / matrix[:, 2:, 2:], homography, rtol=1e-9, atol=1e-12)
    assert differs(ours, kornias(picture, homography)) < ROUNDING


def test_a_page_is_turned_about_its_own_centre_and_cut_at_its_own_edge():
    """Though the batch is padded: the oracle is shown the page alone."""
    picture = a_picture(48)
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 32))
    draws = {"rotate": drawn(10.0, [0.9]), "perspective": drawn(0.3, [0.1 * n for n in range(8)])}
    heights = torch.tensor([48])
    ours = resample(padded, free(draws, heights, WIDTH), heights)
    turned = kornia.get_rotation_matrix2d(
        torch.tensor([[WIDTH / 2, 24.0]]).double(),
        torch.tensor([-8.0]).double(),
        torch.ones(1, 2).double(),
    )
    turned = torch.cat([turned, torch.tensor([[[0, 0, 1]]]).double()], 1)
    inward = 0.3 * draws["perspective"].u.view(1, 4, 2).double() * torch.tensor([WIDTH, 48]) / 2
    tilted = kornia.get_perspective_transform(*corners_after(inward, 48))
    assert differs(ours[:, :, :48], kornias(picture, tilted @ turned)) < ROUNDING
    assert (ours[:, :, 48:] == 0).all()


UPRIGHT = {
    "flip": (drawn(1.0, []), {"scale": 1.0, "translate": [0, 0]}),
    "scale": (drawn(0.3, [0.9]), {"scale": 1 + 0.3 * 0.8, "translate": [0, 0]}),
    "translate": (drawn(0.2, [0.75, 0.1]), {"scale": 1.0, "translate": [0.1 * 64, -0.16 * 48]}),
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_upright_warps_are_torchvisions(name):
    draws, theirs = UPRIGHT[name]
    picture, heights = a_picture(), torch.tensor([48])
    ours = resample(picture, upright({name: draws}, heights, WIDTH), heights)
    if name == "flip":
        picture = torchvision.horizontal_flip(picture)
    oracle = torchvision.affine(
        picture, angle=0.0, shear=[0.0, 0.0], interpolation=BILINEAR, **theirs
    )
    assert differs(ours, oracle) < ROUNDING


def test_a_crop_is_torchvisions():
    picture, heights = a_picture(), torch.tensor([48])
    draws = drawn(0.5, [0.5, 0.25, 0.75])  # a quarter cut away: 4 px left of it, 9 px above
    ours = resample(picture, upright({"crop": draws}, heights, WIDTH), heights)
    theirs = torchvision.resized_crop(
        picture, top=9, left=4, height=36, width=48, size=[48, WIDTH], antialias=False
    )
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # theirs repeats the border
    assert differs(ours[inside], theirs[inside]) < ROUNDING


@pytest.mark.parametrize("name", ["flip", "scale", "translate", "crop"])
def test_boxes_are_edited_as_their_picture_is_warped(name):
    """Of boxes the edit is exact; their picture is interpolated, and so differs at edges alone."""
    batch, magnitude = a_batch(), {"flip": 1.0, "scale": 0.3, "translate": 0.2, "crop": 0.3}[name]
    _, of_boxes = only(name, magnitude)(batch, seed=0)
    _, of_pictures = only(name, magnitude)(as_pictures(batch), seed=0)
    moved = (of_boxes - batch.images()).abs()
    pages = torch.arange(of_boxes.shape[2]) < torch.tensor(HEIGHTS).unsqueeze(1)
    off = (of_boxes - of_pictures).abs()[:, 0][pages]
    assert off.mean() < 0.25 * moved[:, 0][pages].mean()
    if name == "flip":
        assert off.max() < 0.5 / 255 + 1e-4


def test_boxes_follow_a_formula():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (30, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    page, heights = np.array([WIDTH, 48.0, WIDTH, 48.0]), torch.tensor([48])
    expected = {
        "flip": np.stack([64 - boxes[:, 2], boxes[:, 1], 64 - boxes[:, 0], boxes[:, 3]], 1),
        "scale": page / 2 + (boxes - page / 2) * 1.24,
        "translate": boxes + np.array([0.1, -0.16, 0.1, -0.16]) * page,
        "crop": (boxes - np.array([4, 9, 4, 9])) / 0.75,
    }
    draws = {name: draw for name, (draw, _) in UPRIGHT.items()}
    draws["crop"] = drawn(0.5, [0.5, 0.25, 0.75])
    owner = torch.zeros(len(boxes), dtype=torch.long)
    for name, after in expected.items():
        matrices = upright({name: draws[name]}, heights, WIDTH)
        ours = transform(torch.from_numpy(boxes), owner, matrices).numpy()
        np.testing.assert_allclose(ours, after, rtol=0, atol=1e-5)
