"""Blocks and the stages built from them."""

import pytest
import torch

from vaetrain.model.blocks import ResBlock, Stage
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.registry import ATTENTION, BLOCKS, SIZES


def test_a_new_residual_block_passes_its_input_on():
    x = torch.rand(2, 8, 4, 4)
    output = ResBlock(8, 8, attention="none")(x, rows_at(torch.tensor([4, 4]), 4))
    torch.testing.assert_close(output, torch.nn.functional.silu(x))


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_the_first_block_of_a_stage_changes_the_resolution(blocks, attention, size):
    stage = Stage(ModelConfig(size, blocks, attention), 3, 16, stride=2)
    heights = torch.tensor([8, 5])
    x = keep(torch.rand(2, 3, 8, 6), rows_at(heights, 8))
    output = stage(x, rows_at(heights, 4, 2))
    assert output.shape == (2, 16, 4, 3)
    assert (output[1, :, 3:] == 0).all()


def test_a_stage_has_the_residual_blocks_of_its_size():
    for name, size in SIZES.items():
        assert len(Stage(ModelConfig(name), 1, 8, stride=2).blocks) == size.blocks
