"""Running means and moments, compared with those of all rows at once."""

import torch

from tests.support.engines import FakeEngine
from tests.support.ranks import ThreadRanks, run_ranks
from vaetrain.evaluation.accumulators import MeanAccumulator, MomentAccumulator

CPU = torch.device("cpu")


def test_moments_keep_a_small_variance_beside_a_large_mean():
    vectors = 1e4 + 1e-2 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
    accumulator = MomentAccumulator(2, CPU)
    for part in vectors.split(7):
        accumulator.update(part)
    moments = accumulator.moments(FakeEngine())
    torch.testing.assert_close(moments.covariance, vectors.T.cov(correction=0), rtol=1e-7, atol=0)


def test_moments_of_ranks_with_different_numbers_of_pages_equal_those_of_all_rows():
    """One rank has no page at all."""
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double() + 5
    parts = [vectors[:40], vectors[40:], vectors[:0]]

    def run(rank: ThreadRanks):
        accumulator = MomentAccumulator(3, CPU)
        if len(parts[rank.rank]):
            accumulator.update(parts[rank.rank])
        return accumulator.moments(rank)

    for moments in run_ranks(3, run):
        assert moments.count == 50
        torch.testing.assert_close(moments.mean, vectors.mean(dim=0))
        torch.testing.assert_close(moments.covariance, vectors.T.cov(correction=0))


def test_excluded_values_do_not_count():
    accumulator = MeanAccumulator(2, CPU)
    values = torch.tensor([[1.0, torch.nan], [3.0, 8.0]])
    accumulator.update(values, torch.tensor([[True, False], [True, True]]))
    assert accumulator.means(FakeEngine()).tolist() == [2, 8]
