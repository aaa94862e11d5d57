"""Latent mixup: lambda belongs to the pair, and the pair's latent is one."""

import pytest
import scipy.stats
import torch

from vaetrain.model.mixup import Mixup, mix_pairs

CPU = torch.device("cpu")


def shares(alpha: float, pairs: int, seed: int = 0) -> torch.Tensor:
    ids = torch.arange(2 * pairs)
    return Mixup(alpha, CPU).shares(seed, torch.zeros_like(ids), ids)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(alpha):
    even = shares(alpha, 4000)[0::2].double().numpy()
    assert scipy.stats.kstest(even, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_the_shares_of_a_pair_sum_to_one():
    drawn = shares(0.4, 50)
    torch.testing.assert_close(drawn[0::2] + drawn[1::2], torch.ones(50))


def test_lambda_is_a_function_of_both_ids_wherever_the_pair_stands():
    ids, epochs = torch.tensor([7, 9, 3, 4, 7, 8]), torch.zeros(6, dtype=torch.long)
    mixup = Mixup(1.0, CPU)
    whole = mixup.shares(0, epochs, ids)
    assert torch.equal(mixup.shares(0, epochs[2:], ids[2:]), whole[2:])
    assert len({float(share) for share in whole[0::2]}) == 3
    assert not torch.equal(mixup.shares(1, epochs, ids), whole)
    assert not torch.equal(mixup.shares(0, epochs + 1, ids), whole)


def test_both_slots_hold_the_mixed_latent():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    mixed = mix_pairs(z, torch.tensor([0.25, 0.75, 0.5, 0.5]))
    assert mixed.tolist() == [[0.25, 0.75], [0.25, 0.75], [3.0, 3.0], [3.0, 3.0]]


def test_a_share_of_one_leaves_the_page_alone():
    z = torch.randn(2, 5)
    torch.testing.assert_close(mix_pairs(z, torch.tensor([1.0, 0.0]))[0], z[0])
