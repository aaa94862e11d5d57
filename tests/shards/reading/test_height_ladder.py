"""Heights that batches are padded to."""

import numpy as np
import pytest

from shards.reading.height_ladder import height_ladder


@pytest.mark.parametrize(("top", "stride"), [(512, 16), (500, 16), (4000, 32), (16, 16), (17, 16)])
def test_heights_are_few_multiples_of_the_stride_up_to_the_top(top, stride):
    ladder = height_ladder(top, stride)
    assert (ladder % stride == 0).all()
    assert (np.diff(ladder) > 0).all()
    assert top <= ladder[-1] < top + stride
    assert ladder[0] == stride
    assert len(ladder) <= 4 * np.log2(ladder[-1] / stride) + 2
