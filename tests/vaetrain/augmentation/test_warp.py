"""Geometry against kornia, torchvision and independent formulas."""

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
    fixed_params,
    only,
)
from vaetrain.augmentation.boxes import transform
from vaetrain.augmentation.operations import Kind
from vaetrain.augmentation.parameters import OpParameters
from vaetrain.augmentation.warp import corners_moved_inward, homographies, resample, rotation

BILINEAR = torchvision.InterpolationMode.BILINEAR
ROUNDING = 2.0**-12
"""Largest difference of a resampled value from a reference: source positions are rounded to whole
multiples of 2^-12 pixels, an error of at most half of that along each axis, and a value changes by
at most 1 per pixel."""


def largest_difference(actual: Tensor, reference: Tensor) -> float:
    return float((actual - reference).abs().max())


def kornia_warp(picture: Tensor, homography: Tensor) -> Tensor:
    """Warp with kornia by a homography in coordinates where a pixel's centre is at one half."""
    shift = torch.eye(3).double()
    shift[:2, 2] = 0.5
    by_centres = torch.linalg.inv(shift) @ homography @ shift
    return kornia.warp_perspective(picture.double(), by_centres, tuple(picture.shape[2:])).float()


@pytest.mark.parametrize("height", [48, 63, 64])
@pytest.mark.parametrize("degrees", [-30.0, 0.3, 5.0, 33.0, 90.0])
def test_rotation_equals_torchvision_and_kornia(degrees, height):
    picture, heights = a_picture(height), torch.tensor([height])
    matrix = rotation(torch.tensor([degrees]), torch.tensor([[WIDTH / 2, height / 2]]))
    actual = resample(picture, matrix, heights)
    assert largest_difference(actual, torchvision.rotate(picture, -degrees, BILINEAR)) < ROUNDING
    centre = torch.tensor([[(WIDTH - 1) / 2, (height - 1) / 2]])  # kornia: of pixel centres
    reference = kornia.rotate(picture, torch.tensor([-degrees]), center=centre)
    assert largest_difference(actual, reference) < ROUNDING


INWARD = [
    [[6.0, 3.0], [2.0, 5.0], [8.0, 1.0], [4.0, 7.0]],
    [[0.0, 0.0], [9.0, 14.0], [0.0, 0.0], [0.0, 0.0]],
]


def corners_after(inward: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Return a page's corners, clockwise from the upper left, before and after: (1, 4, 2) each."""
    corners = torch.tensor([[[0, 0], [WIDTH, 0], [WIDTH, height], [0, height]]]).double()
    return corners, corners + torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * inward


@pytest.mark.parametrize("height", [48, 64])
@pytest.mark.parametrize("inward", INWARD)
def test_perspective_equals_torchvision_and_kornia(inward, height):
    inward = torch.tensor([inward])
    picture, heights = a_picture(height), torch.tensor([height])
    matrix = corners_moved_inward(inward, torch.tensor([[WIDTH, height]]).double())
    actual = resample(picture, matrix, heights)
    corners, moved = corners_after(inward, height)
    reference = torchvision.perspective(
        picture, corners[0].tolist(), moved[0].tolist(), interpolation=BILINEAR
    )
    assert largest_difference(actual, reference) < ROUNDING
    homography = kornia.get_perspective_transform(corners, moved)
    torch.testing.assert_close(matrix / matrix[:, 2:, 2:], homography, rtol=1e-9, atol=1e-12)
    assert largest_difference(actual, kornia_warp(picture, homography)) < ROUNDING


def test_pages_are_warped_about_their_own_centre_and_cut_at_their_own_edge():
    """In a padded batch; the reference gets the page without padding."""
    picture = a_picture(48)
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 32))
    params = {
        "rotate": fixed_params(10.0, [0.9]),
        "perspective": fixed_params(0.3, [0.1 * n for n in range(8)]),
    }
    heights = torch.tensor([48])
    actual = resample(padded, homographies(Kind.PROJECTIVE, params, heights, WIDTH), heights)
    rotated = kornia.get_rotation_matrix2d(
        torch.tensor([[WIDTH / 2, 24.0]]).double(),
        torch.tensor([-8.0]).double(),
        torch.ones(1, 2).double(),
    )
    rotated = torch.cat([rotated, torch.tensor([[[0, 0, 1]]]).double()], 1)
    share = 0.3 * params["perspective"].uniforms.view(1, 4, 2).double()
    inward = share * torch.tensor([WIDTH, 48]) / 2
    moved = kornia.get_perspective_transform(*corners_after(inward, 48))
    assert largest_difference(actual[:, :, :48], kornia_warp(picture, moved @ rotated)) < ROUNDING
    assert (actual[:, :, 48:] == 0).all()


AXIS_ALIGNED = {
    "flip": (fixed_params(1.0, []), {"scale": 1.0, "translate": [0, 0]}),
    "scale": (fixed_params(0.3, [0.9]), {"scale": 1 + 0.3 * 0.8, "translate": [0, 0]}),
    "translate": (
        fixed_params(0.2, [0.75, 0.1]),
        {"scale": 1.0, "translate": [0.1 * 64, -0.16 * 48]},
    ),
}


def warped(picture: Tensor, name: str, params: OpParameters) -> Tensor:
    """Warp a picture by one axis-aligned operation."""
    heights = torch.tensor([picture.shape[2]])
    matrices = homographies(Kind.AXIS_ALIGNED, {name: params}, heights, WIDTH)
    return resample(picture, matrices, heights)


@pytest.mark.parametrize("name", AXIS_ALIGNED)
def test_axis_aligned_warps_equal_torchvision(name):
    params, arguments = AXIS_ALIGNED[name]
    picture = a_picture()
    actual = warped(picture, name, params)
    if name == "flip":
        picture = torchvision.horizontal_flip(picture)
    expected = torchvision.affine(
        picture, angle=0.0, shear=[0.0, 0.0], interpolation=BILINEAR, **arguments
    )
    assert largest_difference(actual, expected) < ROUNDING


def test_crop_equals_torchvision():
    picture = a_picture()
    params = fixed_params(0.5, [0.5, 0.25, 0.75])  # a quarter cut away: 4 px left of it, 9 px above
    actual = warped(picture, "crop", params)
    reference = torchvision.resized_crop(
        picture, top=9, left=4, height=36, width=48, size=[48, WIDTH], antialias=False
    )
    # Torchvision repeats the border.
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert largest_difference(actual[inside], reference[inside]) < ROUNDING


@pytest.mark.parametrize("name", ["flip", "scale", "translate", "crop"])
def test_boxes_are_transformed_like_their_picture(name):
    """Boxes are transformed exactly and pictures interpolated, so only edges differ."""
    batch, magnitude = a_batch(), {"flip": 1.0, "scale": 0.3, "translate": 0.2, "crop": 0.3}[name]
    _, of_boxes = only(name, magnitude)(batch, seed=0)
    _, of_pictures = only(name, magnitude)(as_pictures(batch), seed=0)
    moved = (of_boxes - batch.images()).abs()
    pages = torch.arange(of_boxes.shape[2]) < torch.tensor(HEIGHTS).unsqueeze(1)
    off = (of_boxes - of_pictures).abs()[:, 0][pages]
    assert off.mean() < 0.25 * moved[:, 0][pages].mean()
    if name == "flip":
        assert off.max() < 0.5 / 255 + 1e-4


def test_boxes_are_transformed_exactly():
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
    parameters = {name: params for name, (params, _) in AXIS_ALIGNED.items()}
    parameters["crop"] = fixed_params(0.5, [0.5, 0.25, 0.75])
    owner = torch.zeros(len(boxes), dtype=torch.long)
    for name, after in expected.items():
        matrices = homographies(Kind.AXIS_ALIGNED, {name: parameters[name]}, heights, WIDTH)
        actual = transform(torch.from_numpy(boxes), owner, matrices).numpy()
        np.testing.assert_allclose(actual, after, rtol=0, atol=1e-5)
