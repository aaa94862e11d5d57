"""Split of the global batch; a split with a remainder is refused with the nearest ones."""

import pytest

from vaetrain.data.batching import Batching, split_global_batch
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
def test_micro_batch_and_accumulation_follow_from_the_global_batch(total, micro, ranks, expected):
    assert split_global_batch(total, micro, ranks) == expected


@pytest.mark.parametrize(
    ("total", "micro", "ranks", "message"),
    [
        (15, None, 2, "cannot be divided among 2 ranks; the nearest possible are 14 and 16"),
        (1, None, 2, "the nearest possible are 2"),
        (16, 3, 2, "does not divide the 8 pages .* the nearest possible are 2 and 4"),
        (16, 32, 2, "the nearest possible are 8$"),
    ],
)
def test_uneven_split_is_refused_with_the_nearest_ones(total, micro, ranks, message):
    with pytest.raises(ConfigError, match=message):
        split_global_batch(total, micro, ranks)


def test_mixup_needs_an_even_micro_batch():
    assert split_global_batch(6, 3, 2).micro_batch == 3
    with pytest.raises(ConfigError, match="needs pairs of pages, but a micro batch has 3"):
        split_global_batch(6, 3, 2, pairs=True)
