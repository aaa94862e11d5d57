"""Latent mixup: the distribution of lambda, and mixed latents."""

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
    values = shares(0.4, 50)
    torch.testing.assert_close(values[0::2] + values[1::2], torch.ones(50))


def test_lambda_depends_on_seed_epoch_and_ids_and_not_on_the_position_in_the_batch():
    ids, epochs = torch.tensor([7, 9, 3, 4, 7, 8]), torch.zeros(6, dtype=torch.long)
    mixup = Mixup(1.0, CPU)
    whole = mixup.shares(0, epochs, ids)
    assert torch.equal(mixup.shares(0, epochs[2:], ids[2:]), whole[2:])
    assert len({float(share) for share in whole[0::2]}) == 3
    assert not torch.equal(mixup.shares(1, epochs, ids), whole)
    assert not torch.equal(mixup.shares(0, epochs + 1, ids), whole)


def test_both_slots_of_a_pair_hold_the_mixed_latent():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    mixed = mix_pairs(z, torch.tensor([0.25, 0.75, 0.5, 0.5]))
    assert mixed.tolist() == [[0.25, 0.75], [0.25, 0.75], [3.0, 3.0], [3.0, 3.0]]


def test_a_share_of_one_gives_the_pages_own_latent():
    z = torch.randn(2, 5)
    torch.testing.assert_close(mix_pairs(z, torch.tensor([1.0, 0.0]))[0], z[0])
