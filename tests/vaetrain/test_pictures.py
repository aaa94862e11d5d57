"""Interpolation on great circles, and where there are none."""

import pytest
import torch

from vaetrain.pictures import slerp

A, B = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 5.0, 0.0])


def test_it_turns_evenly_while_its_length_grows_evenly():
    way = slerp(A, B, 7)
    torch.testing.assert_close(way.norm(dim=1), torch.linspace(3, 5, 7))
    angles = torch.atan2(way[:, 1], way[:, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 7))
    torch.testing.assert_close(way[0], A)
    torch.testing.assert_close(way[-1], B)


@pytest.mark.parametrize(
    "ends",
    [(0 * A, B), (A, 0 * B), (0 * A, 0 * A), (A, A), (A, 2 * A), (A, -2 * A), (A, -A)],
    ids=["from zero", "to zero", "zeros", "equal", "parallel", "antipodal", "opposite"],
)
def test_it_is_straight_where_no_circle_is_singled_out(ends):
    way = slerp(*ends, 5)
    share = torch.linspace(0, 1, 5).unsqueeze(1)
    torch.testing.assert_close(way, ends[0] + share * (ends[1] - ends[0]))


def test_near_them_it_is_finite_and_ends_where_it_should():
    for noise in (1e-6, 1e-5, 1e-4, 1e-3):
        for end in (A + noise * B, noise * B - A):
            way = slerp(A, end, 9)
            assert way.isfinite().all()
            assert way.norm(dim=1).max() < 3.1
            torch.testing.assert_close(way[[0, -1]], torch.stack([A, end]), rtol=0, atol=1e-3)
