"""Means over the valid rows of each page."""

import torch

from vaetrain.losses.page_means import masked_mean, zero_padded_mean

ROWS = torch.tensor([4, 2, 0])


def test_masked_mean_ignores_the_padding():
    values = torch.rand(3, 1, 4, 5)
    values[1, :, 2:] = values[2] = torch.nan
    expected = torch.stack([values[0].mean(), values[1, :, :2].mean(), torch.tensor(0.0)])
    torch.testing.assert_close(masked_mean(values, ROWS), expected)


def test_zero_padded_mean_counts_valid_rows_only():
    values = torch.rand(3, 4, 5)
    values[1, 2:] = values[2] = 0
    expected = torch.stack([values[0].mean(), values[1, :2].mean(), torch.tensor(0.0)])
    torch.testing.assert_close(zero_padded_mean(values, ROWS), expected)
