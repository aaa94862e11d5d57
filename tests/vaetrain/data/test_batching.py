"""The global batch is the setting; what cannot be cut evenly is refused with what could."""

import pytest

from vaetrain.data.batching import Batching, cut_batch
from vaetrain.settings import ConfigError


@pytest.mark.parametrize(
    ("total", "micro", "ranks", "expected"),
    [
        (16, None, 1, Batching(16, 16, 1)),
        (16, None, 2, Batching(16, 8, 1)),
        (16, None, 4, Batching(16, 4, 1)),
        (16, 2, 2, Batching(16, 2, 4)),
        (24, None, 2, Batching(24, 4, 3)),
        (7, None, 1, Batching(7, 1, 7)),
        (1024, None, 1, Batching(1024, 32, 32)),
    ],
)
def test_micro_batches_and_accumulation_follow(total, micro, ranks, expected):
    assert cut_batch(total, micro, ranks) == expected


@pytest.mark.parametrize(
    ("total", "micro", "ranks", "says"),
    [
        (15, None, 2, "cannot be shared by 2 ranks; the nearest possible are 14 and 16"),
        (1, None, 2, "the nearest possible are 2"),
        (16, 3, 2, "does not divide the 8 pages .* the nearest possible are 2 and 4"),
        (16, 32, 2, "the nearest possible are 8$"),
    ],
)
def test_what_does_not_come_out_even_is_refused(total, micro, ranks, says):
    with pytest.raises(ConfigError, match=says):
        cut_batch(total, micro, ranks)


def test_pairs_need_an_even_micro_batch():
    assert cut_batch(6, 3, 2).micro_batch == 3
    with pytest.raises(ConfigError, match="a micro batch of 3 has none"):
        cut_batch(6, 3, 2, pairs=True)
