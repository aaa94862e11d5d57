"""Spherical interpolation, its degenerate cases and interpolated heights."""

import pytest
import torch

from vaetrain.inference.interpolation import interpolate_latents, path_heights, slerp

A, B = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 5.0, 0.0])


def test_angle_and_length_change_linearly():
    path = slerp(A, B, 7)
    torch.testing.assert_close(path.norm(dim=1), torch.linspace(3, 5, 7))
    angles = torch.atan2(path[:, 1], path[:, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 7))
    torch.testing.assert_close(path[0], A)
    torch.testing.assert_close(path[-1], B)


@pytest.mark.parametrize(
    "ends",
    [(0 * A, B), (A, 0 * B), (0 * A, 0 * A), (A, A), (A, 2 * A), (A, -2 * A), (A, -A)],
    ids=["from zero", "to zero", "zeros", "equal", "parallel", "antipodal", "opposite"],
)
def test_path_is_straight_without_a_unique_great_circle(ends):
    path = slerp(*ends, 5)
    share = torch.linspace(0, 1, 5).unsqueeze(1)
    torch.testing.assert_close(path, ends[0] + share * (ends[1] - ends[0]))


def test_nearly_parallel_ends_give_finite_points():
    for noise in (1e-6, 1e-5, 1e-4, 1e-3):
        for end in (A + noise * B, noise * B - A):
            path = slerp(A, end, 9)
            assert path.isfinite().all()
            assert path.norm(dim=1).max() < 3.1
            torch.testing.assert_close(path[[0, -1]], torch.stack([A, end]), rtol=0, atol=1e-3)


def test_spatial_latents_are_interpolated_as_one_vector():
    ends = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    path = interpolate_latents(ends, 6)
    assert path.shape == (6, 3, 4, 5)
    torch.testing.assert_close(path.flatten(1), slerp(*ends.flatten(1), 6))


def test_heights_are_on_a_line_and_rounded():
    ends = torch.tensor([40, 128])
    assert path_heights(ends, 3).tolist() == [40, 84, 128]
    assert path_heights(ends, 4).tolist() == [40, 69, 99, 128]
