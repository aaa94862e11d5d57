"""The decoder beyond the size for which a model was built, and its coarse page."""

import torch
import torch.nn.functional as F

from tests.vaetrain.model.pages import LATENT_DIM, WIDTH, build_model
from vaetrain.model.decoder import at_stride
from vaetrain.model.masked import rows_at


@torch.no_grad()
def test_pages_taller_than_max_height_are_decoded():
    decoded = build_model().decode(torch.randn(1, LATENT_DIM), torch.tensor([4000]), (4000, WIDTH))
    assert decoded.shape == (1, 1, 4000, WIDTH)
    assert decoded.isfinite().all()


def test_a_coarse_page_is_averaged_or_repeated_to_a_stride():
    coarse = torch.rand(1, 1, 8, 4)
    height = torch.tensor([32])
    finer = at_stride(coarse, 4, 2, rows_at(height, 16, 2))
    assert torch.equal(finer, coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    coarser = at_stride(coarse, 4, 8, rows_at(height, 4, 8))
    torch.testing.assert_close(coarser, F.avg_pool2d(coarse, 2))
